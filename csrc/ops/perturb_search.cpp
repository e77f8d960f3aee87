// The op aeppt::perturb_search: its schema, the checks of its arguments, and its CPU form.
//
// The fake (meta) form stands in aeppt_ext/ops.py; the CUDA form in csrc/cuda/.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "../cpu/variants.h"
#include "aeppt/search.h"

namespace aeppt {
namespace {

using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Rows below this many are not worth a second thread.
constexpr int64_t kRowsPerWorker = 4;

template <typename Enum>
Enum parse(c10::string_view name, c10::string_view value,
           std::initializer_list<std::pair<const char*, Enum>> known) {
  std::string names;
  for (const auto& [word, meaning] : known) {
    if (value == word) return meaning;
    names += (names.empty() ? "'" : ", '") + std::string(word) + "'";
  }
  TORCH_CHECK_VALUE(false, name, " must be one of ", names, ", got '", value, "'");
}

void check_number(c10::string_view name, double value, double low, double high) {
  TORCH_CHECK_VALUE(std::isfinite(value) && low <= value && value <= high, name,
                    " must be finite and in [", low, ", ", high, "], got ", value);
}

void check_tensors(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   Features features) {
  TORCH_CHECK_VALUE(probs.dim() == 2, "probs must be [n, k], got ", probs.sizes());
  const int64_t k = probs.size(1);
  TORCH_CHECK_VALUE(k >= 2 && k <= std::numeric_limits<int32_t>::max(),
                    "probs must have at least 2 classes, got ", probs.sizes());
  TORCH_CHECK_TYPE(probs.scalar_type() == at::kFloat || probs.scalar_type() == at::kDouble,
                   "probs must be float32 or float64, got ", probs.scalar_type());
  TORCH_CHECK_VALUE(!weights.empty() && weights.size() == biases.size(),
                    "the substitute needs as many weights as biases, at least one; got ",
                    weights.size(), " and ", biases.size());
  int64_t in = features == Features::kTop3 ? std::min<int64_t>(3, k) : k;
  for (size_t l = 0; l < weights.size(); ++l) {
    const at::Tensor &weight = weights[l], &bias = biases[l];
    TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == in && weight.size(0) >= 1, "weight ",
                      l, " of the substitute must be [out, ", in, "] for ", k, " classes, got ",
                      weight.sizes());
    TORCH_CHECK_VALUE(bias.dim() == 1 && bias.size(0) == weight.size(0), "bias ", l,
                      " of the substitute must be [", weight.size(0), "], got ", bias.sizes());
    for (const at::Tensor& tensor : {weight, bias}) {
      TORCH_CHECK_TYPE(tensor.scalar_type() == probs.scalar_type(),
                       "the substitute must have the dtype of probs, ", probs.scalar_type(),
                       ", got ", tensor.scalar_type());
      TORCH_CHECK_VALUE(tensor.device() == probs.device(),
                        "the substitute must be on the device of probs, ", probs.device(), ", got ",
                        tensor.device());
    }
    in = weight.size(0);
  }
  TORCH_CHECK_VALUE(in == 1, "the substitute's last layer must have one output, got ", in);
}

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
[[noreturn]] void refuse_row(const at::Tensor& probs, int64_t row) {
  const at::Tensor values = probs.select(0, row).contiguous();
  const T* const p = values.const_data_ptr<T>();
  char reason[160];
  double total = 0;
  for (int64_t j = 0; j < values.numel(); ++j) total += p[j];
  std::snprintf(reason, sizeof reason, "it sums to %.6g (must be 1 within %g)", total,
                kSumTolerance);
  for (int64_t j = 0; j < values.numel(); ++j) {
    if (p[j] >= 0 && p[j] < std::numeric_limits<T>::infinity()) continue;
    std::snprintf(reason, sizeof reason, "column %lld is %g (must be finite and not negative)",
                  static_cast<long long>(j), std::isnan(p[j]) ? NAN : static_cast<double>(p[j]));
    break;
  }
  TORCH_CHECK_VALUE(false, "probs row ", row, " is not a probability vector: ", reason,
                    "; mend or remove the row, or pass on_invalid=\"passthrough\"");
}

template <typename T>
Outputs search_cpu(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   const Options& options, bool raise_on_invalid) {
  const int64_t n = probs.size(0), k = probs.size(1);
  at::Tensor out = at::empty({n, k}, probs.options());                   // [n, k]
  at::Tensor status = at::empty({n}, probs.options().dtype(at::kChar));  // [n]
  at::Tensor steps = at::empty({n}, probs.options().dtype(at::kInt));    // [n]
  at::Tensor score_before = at::empty({n}, probs.options());             // [n]
  at::Tensor score_after = at::empty({n}, probs.options());              // [n]
  at::Tensor l1 = at::empty({n}, probs.options());                       // [n]
  if (n > 0) {
    const PackedSubstitute<T> substitute(weights, biases);
    const Search<T> search{
        n,
        k,
        probs.const_data_ptr<T>(),
        probs.stride(0),
        probs.stride(1),
        substitute.layers().data(),
        static_cast<int32_t>(substitute.layers().size()),
        options,
        out.data_ptr<T>(),
        status.data_ptr<int8_t>(),
        steps.data_ptr<int32_t>(),
        score_before.data_ptr<T>(),
        score_after.data_ptr<T>(),
        l1.data_ptr<T>(),
    };
    const SearchRows<T> search_rows = chosen_variant().search_rows<T>();
    const int64_t workers = std::clamp<int64_t>(n / kRowsPerWorker, 1, at::get_num_threads());
    std::atomic<int64_t> next_row{0};
    at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) search_rows(search, workers, next_row);
    });
  }
  if (raise_on_invalid) {
    const int8_t* const first = status.const_data_ptr<int8_t>();
    const int8_t* const bad = std::find(first, first + n, static_cast<int8_t>(Status::kInvalid));
    if (bad != first + n) refuse_row<T>(probs, bad - first);
  }
  return {out, status, steps, score_before, score_after, l1};
}

Outputs perturb_search_cpu(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                           c10::string_view features, c10::string_view direction,
                           c10::string_view space, c10::string_view norm, double step_size,
                           int64_t max_steps, double margin, double tie_gap, int64_t refine_steps,
                           std::optional<double> max_l1, bool constant_time,
                           c10::string_view on_invalid) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kMostSteps = 1e6;
  check_number("step_size", step_size, 0, 1e6);
  check_number("max_steps", max_steps, 0, kMostSteps);
  check_number("margin", margin, 0, kInfinity);
  check_number("tie_gap", tie_gap, 1e-6, 0.1);
  check_number("refine_steps", refine_steps, 0, kMostSteps);
  if (max_l1) check_number("max_l1", *max_l1, 0, kInfinity);
  const Options options{
      parse<Features>(
          "features", features,
          {{"sorted", Features::kSorted}, {"raw", Features::kRaw}, {"top3", Features::kTop3}}),
      parse<Direction>("direction", direction,
                       {{"member", Direction::kMember}, {"both", Direction::kBoth}}),
      parse<Space>("space", space, {{"prob", Space::kProb}, {"logit", Space::kLogit}}),
      parse<Norm>("norm", norm, {{"linf", Norm::kLinf}, {"l2", Norm::kL2}}),
      step_size,
      static_cast<int32_t>(max_steps),
      margin,
      tie_gap,
      static_cast<int32_t>(refine_steps),
      max_l1.value_or(kInfinity),
      constant_time,
  };
  const bool raise =
      parse<bool>("on_invalid", on_invalid, {{"raise", true}, {"passthrough", false}});
  check_tensors(probs, weights, biases, options.features);
  return probs.scalar_type() == at::kFloat
             ? search_cpu<float>(probs, weights, biases, options, raise)
             : search_cpu<double>(probs, weights, biases, options, raise);
}

}  // namespace

TORCH_LIBRARY(aeppt, library) {
  library.def(
      "perturb_search(Tensor probs, Tensor[] weights, Tensor[] biases, str features, "
      "str direction, str space, str norm, float step_size, int max_steps, float margin, "
      "float tie_gap, int refine_steps, float? max_l1, bool constant_time, str on_invalid) "
      "-> (Tensor probs, Tensor status, Tensor steps, Tensor score_before, Tensor score_after, "
      "Tensor l1)");
}

TORCH_LIBRARY_IMPL(aeppt, CPU, library) { library.impl("perturb_search", &perturb_search_cpu); }

}  // namespace aeppt
