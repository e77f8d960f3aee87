// The op aeppt::perturb_search: its schema and its CPU form.
//
// The fake (meta) form stands in aeppt_ext/ops.py; the CUDA form in csrc/cuda/.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <type_traits>
#include <vector>

#include "../cpu/packed_substitute.h"
#include "../cpu/variants.h"
#include "aeppt/search.h"
#include "arguments.h"
#include "workers.h"

namespace aeppt {
namespace {

// Rows below this many are not worth a second thread.
constexpr int64_t kRowsPerWorker = 4;

template <typename T>
PackedSubstitute<T> pack(at::TensorList weights, at::TensorList biases, bool pairs) {
  std::vector<at::Tensor> kept;
  std::vector<DenseLayer<T>> layers;
  for (size_t l = 0; l < weights.size(); ++l) {
    const at::Tensor weight = kept.emplace_back(weights[l].contiguous());
    const at::Tensor bias = kept.emplace_back(biases[l].contiguous());
    layers.push_back(
        {weight.size(1), weight.size(0), weight.const_data_ptr<T>(), bias.const_data_ptr<T>()});
  }
  return {layers, pairs};
}

template <typename T>
Outputs search_cpu(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   const Options& options) {
  const int64_t n = probs.size(0);
  Outputs outputs = empty_outputs(probs);
  if (n > 0) {
    const Variant& variant = chosen_variant();
    const bool in_bf16 =
        std::is_same_v<T, float> && options.precision == Precision::kBf16 && variant.makes_bf16;
    const PackedSubstitute<T> substitute = pack<T>(weights, biases, in_bf16);
    Search<T> search = make_search<T>(probs, options, outputs);
    search.layers = substitute.layers().data();
    search.layer_count = static_cast<int32_t>(substitute.layers().size());
    const SearchRows<T> search_rows = variant.search_rows<T>();
    const Workers workers(n / kRowsPerWorker);
    RowQueue queue(n, check_signals);
    run_workers(workers, queue, [&] { search_rows(search, workers.count(), queue); });
  }
  return outputs;
}

Outputs search_cpu(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   const Options& options, bool) {
  return probs.scalar_type() == at::kFloat ? search_cpu<float>(probs, weights, biases, options)
                                           : search_cpu<double>(probs, weights, biases, options);
}

}  // namespace

TORCH_LIBRARY(aeppt, library) {
  library.def(
      "perturb_search(Tensor probs, Tensor[] weights, Tensor[] biases, str features, "
      "str direction, str space, str norm, str method, float step_size, int max_steps, "
      "float margin, float tie_gap, int refine_steps, float? max_l1, bool constant_time, "
      "str precision, str on_invalid) "
      "-> (Tensor probs, Tensor status, Tensor steps, Tensor score_before, Tensor score_after, "
      "Tensor l1)");
}

TORCH_LIBRARY_IMPL(aeppt, CPU, library) {
  library.impl("perturb_search", &perturb_search<search_cpu>);
}

}  // namespace aeppt
