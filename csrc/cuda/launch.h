// The search on a CUDA device: what the op calls. Torch-free, as the kernels behind it are.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "aeppt/search.h"

namespace aeppt::cuda {

// The layers whose description fits into a kernel's parameters.
constexpr int32_t kMostLayers = 56;
// The classes, and the hidden units of all layers, up to which places fit into 32 bits.
constexpr int64_t kMostWidth = int64_t(1) << 24;

// The substitute as it is given, on the device: weights [out, in] and biases [out], contiguous.
template <typename T>
struct Substitute {
  struct {
    int64_t in, out;
    const T *weight, *bias;
  } layers[kMostLayers];
};

// What a launch needs to know of the device; memory in bytes of shared memory.
struct Device {
  int64_t multiprocessors, memory, memory_of_block, memory_reserved_by_block;
  bool has_clusters;
};

// Lets a kernel have all the shared memory that a block of it can have beside what is fixed. Always
// all, whatever a launch takes: another thread may be about to launch the same kernel with more.
template <typename Kernel>
cudaError_t allow_all_memory(Kernel* kernel, const Device& device, int64_t fixed_bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(device.memory_of_block - fixed_bytes));
}

// Gives device memory that lives until the work queued so far and next on the stream is done.
using Allocate = std::function<char*(int64_t bytes)>;

// Searches all rows, of which there is at least one, on the current device; `search.layers` is not
// read.
template <typename T>
cudaError_t search_rows(const Search<T>& search, const Substitute<T>& substitute,
                        const Device& device, const Allocate& allocate, cudaStream_t stream);

}  // namespace aeppt::cuda
