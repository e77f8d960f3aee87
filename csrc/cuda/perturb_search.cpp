// The op aeppt::perturb_search, its CUDA form.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <vector>

#include "../ops/arguments.h"
#include "launch.h"
#include "op_device.h"

namespace aeppt {
namespace {

template <typename T>
Outputs search_cuda(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                    const Options& options) {
  Outputs outputs = empty_outputs(probs);
  if (probs.size(0) == 0) return outputs;
  Search<T> search = make_search<T>(probs, options, outputs);
  search.layer_count = static_cast<int32_t>(weights.size());
  // Tensors freed at the end of this call are used again only after the work of this stream.
  std::vector<at::Tensor> kept;
  cuda::Substitute<T> substitute{};
  for (size_t l = 0; l < weights.size(); ++l) {
    const at::Tensor weight = kept.emplace_back(weights[l].contiguous());
    const at::Tensor bias = kept.emplace_back(biases[l].contiguous());
    substitute.layers[l] = {weight.size(1), weight.size(0), weight.const_data_ptr<T>(),
                            bias.const_data_ptr<T>()};
  }
  const auto allocate = [&](int64_t bytes) {
    const at::Tensor& memory =
        kept.emplace_back(at::empty({bytes}, probs.options().dtype(at::kByte)));
    return reinterpret_cast<char*>(memory.data_ptr<uint8_t>());
  };
  const c10::DeviceIndex index = probs.device().index();
  C10_CUDA_CHECK(cuda::search_rows<T>(search, substitute, describe(index), allocate,
                                      c10::cuda::getCurrentCUDAStream(index)));
  return outputs;
}

void check_limits(const at::Tensor& probs, at::TensorList weights) {
  check_classes(probs);
  TORCH_CHECK_VALUE(weights.size() <= cuda::kMostLayers, "on a GPU the substitute has at most ",
                    cuda::kMostLayers, " layers, got ", weights.size());
  TORCH_CHECK_VALUE(weights[0].size(1) <= cuda::kMostWidth, "on a GPU the substitute has at most ",
                    cuda::kMostWidth, " inputs, got ", weights[0].size(1));
  int64_t width = 0;
  for (const at::Tensor& weight : weights) width += padded(weight.size(0));
  TORCH_CHECK_VALUE(width <= cuda::kMostWidth,
                    "on a GPU the hidden layers of the substitute have "
                    "at most ",
                    cuda::kMostWidth, " units in all, got ", width);
  check_capability(probs);
}

Outputs search_cuda(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                    const Options& options, bool raises) {
  check_limits(probs, weights);
  const c10::cuda::CUDAGuard guard(probs.device());
  refuse_to_raise_in_a_graph(raises);
  return probs.scalar_type() == at::kFloat ? search_cuda<float>(probs, weights, biases, options)
                                           : search_cuda<double>(probs, weights, biases, options);
}

}  // namespace

TORCH_LIBRARY_IMPL(aeppt, CUDA, library) {
  library.impl("perturb_search", &perturb_search<search_cuda>);
}

}  // namespace aeppt
