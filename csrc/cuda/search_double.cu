// The CUDA kernels for double.
#include "search_kernel.h"

namespace aeppt::cuda {
template cudaError_t search_rows(const Search<double>&, const Substitute<double>&, const Device&,
                                 const Allocate&, cudaStream_t);
}  // namespace aeppt::cuda
