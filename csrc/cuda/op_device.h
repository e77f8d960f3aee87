// What the ops ask of a CUDA device, and what they refuse, before they launch.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>

#include "launch.h"

namespace aeppt {

// Compute capabilities: matrix units take bf16 and tf32 from the one on, blocks form clusters from
// the other on.
constexpr int kOldestMajor = 8, kClusterMajor = 9;

inline int64_t attribute(cudaDeviceAttr which, c10::DeviceIndex device) {
  int value;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

inline cuda::Device describe(c10::DeviceIndex index) {
  return {
      attribute(cudaDevAttrMultiProcessorCount, index),
      attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, index),
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
      attribute(cudaDevAttrReservedSharedMemoryPerBlock, index),
      attribute(cudaDevAttrComputeCapabilityMajor, index) >= kClusterMajor,
  };
}

inline void check_classes(const at::Tensor& probs) {
  TORCH_CHECK_VALUE(probs.size(1) <= cuda::kMostWidth, "on a GPU probs has at most ",
                    cuda::kMostWidth, " classes, got ", probs.sizes());
}

inline void check_capability(const at::Tensor& probs) {
  const int64_t major = attribute(cudaDevAttrComputeCapabilityMajor, probs.device().index());
  TORCH_CHECK_NOT_IMPLEMENTED(major >= kOldestMajor, "aeppt needs a GPU of compute capability ",
                              kOldestMajor, ".0 or newer, ", probs.device(), " has ", major,
                              ".x; search on the CPU");
}

// With the device of the call current.
inline void refuse_to_raise_in_a_graph(bool raises) {
  const auto capture = c10::cuda::currentStreamCaptureStatusMayInitCtx();
  TORCH_CHECK_VALUE(!raises || capture == c10::cuda::CaptureStatus::None,
                    "on_invalid=\"raise\" reads every status on the host, which a CUDA graph "
                    "cannot capture; pass on_invalid=\"passthrough\"");
}

}  // namespace aeppt
