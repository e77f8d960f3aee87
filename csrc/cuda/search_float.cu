// The CUDA kernels for float.
#include "search_kernel.h"

namespace aeppt::cuda {
template cudaError_t search_rows(const Search<float>&, const Substitute<float>&, const Device&,
                                 const Allocate&, cudaStream_t);
}  // namespace aeppt::cuda
