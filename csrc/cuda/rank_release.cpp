// The op aeppt::rank_release, its CUDA form.
#include "../ops/rank_release.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "op_device.h"
#include "release_launch.h"

namespace aeppt {
namespace {

template <typename T>
void release_cuda(const ReleaseArguments& given, const ReleaseOutputs& outputs) {
  const c10::DeviceIndex index = given.probs.device().index();
  at::Tensor memory;  // freed at the end of this call, it is used again only after this stream
  const auto allocate = [&](int64_t bytes) {
    memory = at::empty({bytes}, given.probs.options().dtype(at::kByte));
    return reinterpret_cast<char*>(memory.data_ptr<uint8_t>());
  };
  C10_CUDA_CHECK(cuda::release_rows<T>(make_release<T>(given, outputs), describe(index), allocate,
                                       c10::cuda::getCurrentCUDAStream(index)));
}

void release_cuda(const ReleaseArguments& given, const ReleaseOutputs& outputs, bool raises) {
  check_classes(given.probs);
  check_capability(given.probs);
  const c10::cuda::CUDAGuard guard(given.probs.device());
  refuse_to_raise_in_a_graph(raises);
  if (given.probs.scalar_type() == at::kFloat) release_cuda<float>(given, outputs);
  else release_cuda<double>(given, outputs);
}

}  // namespace

TORCH_LIBRARY_IMPL(aeppt, CUDA, library) {
  library.impl("rank_release", &rank_release<release_cuda>);
}

}  // namespace aeppt
