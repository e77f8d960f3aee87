// The op aeppt::perturb_search: its schema and its CPU form.
//
// The fake (meta) form stands in aeppt_ext/ops.py; the CUDA form in csrc/cuda/.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../cpu/variants.h"
#include "aeppt/search.h"
#include "arguments.h"
#include "workers.h"

namespace aeppt {
namespace {

// Rows below this many are not worth a second thread.
constexpr int64_t kRowsPerWorker = 4;

// The substitute's layers in panels (see Layer), in memory that lives as long as this.
template <typename T>
class PackedSubstitute {
 public:
  PackedSubstitute(at::TensorList weights, at::TensorList biases) {
    int64_t size = 0;
    for (const at::Tensor& weight : weights) {
      const int64_t out = weight.size(0), in = weight.size(1);
      size += padded(out) * in + out * padded(in) + padded(out);
    }
    memory_.resize(size);
    T* next = memory_.data();
    for (size_t l = 0; l < weights.size(); ++l) {
      const at::Tensor weight = weights[l].contiguous(), bias = biases[l].contiguous();
      const int64_t out = weight.size(0), in = weight.size(1);
      const T* const w = weight.const_data_ptr<T>();
      Layer<T> layer{in, out, next, nullptr, nullptr};
      if (out == 1 && l + 1 == weights.size()) {
        std::copy_n(w, in, next);
        next += in;
      } else {
        for (int64_t o = 0; o < out; ++o) {
          T* const column = next + o / kPanel * kPanel * in + o % kPanel;
          for (int64_t i = 0; i < in; ++i) column[i * kPanel] = w[o * in + i];
        }
        next += padded(out) * in;
        layer.backward = next;
        for (int64_t i = 0; i < in; i += kPanel) {
          for (int64_t o = 0; o < out; ++o) {
            std::copy_n(w + o * in + i, std::min(kPanel, in - i), next + i * out + o * kPanel);
          }
        }
        next += out * padded(in);
      }
      layer.bias = next;
      std::copy_n(bias.const_data_ptr<T>(), out, next);
      next += padded(out);
      layers_.push_back(layer);
    }
  }
  const std::vector<Layer<T>>& layers() const { return layers_; }

 private:
  std::vector<T> memory_;
  std::vector<Layer<T>> layers_;
};

template <typename T>
Outputs search_cpu(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   const Options& options) {
  const int64_t n = probs.size(0);
  Outputs outputs = empty_outputs(probs);
  if (n > 0) {
    const PackedSubstitute<T> substitute(weights, biases);
    Search<T> search = make_search<T>(probs, options, outputs);
    search.layers = substitute.layers().data();
    search.layer_count = static_cast<int32_t>(substitute.layers().size());
    const SearchRows<T> search_rows = chosen_variant().search_rows<T>();
    const Workers workers(n / kRowsPerWorker);
    RowQueue queue(n, check_signals);
    at::parallel_for(0, workers.count(), 1, [&](int64_t begin, int64_t end) {
      try {
        for (int64_t i = begin; i < end; ++i) search_rows(search, workers.count(), queue);
      } catch (...) {
        queue.stop();
        throw;
      }
    });
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
