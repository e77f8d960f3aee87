// The ranking release on a CUDA device: what the op calls. Torch-free, as the kernel behind it is.
#pragma once

#include <cuda_runtime_api.h>

#include "aeppt/release.h"
#include "launch.h"

namespace aeppt::cuda {

// Releases all rows, of which there is at least one, on the current device.
template <typename T>
cudaError_t release_rows(const Release<T>& release, const Device& device, const Allocate& allocate,
                         cudaStream_t stream);

}  // namespace aeppt::cuda
