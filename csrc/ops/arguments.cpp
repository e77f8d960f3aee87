// See arguments.h.
#include "arguments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace aeppt {
namespace {

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

}  // namespace

Options read_options(c10::string_view features, c10::string_view direction, c10::string_view space,
                     c10::string_view norm, c10::string_view method, double step_size,
                     int64_t max_steps, double margin, double tie_gap, int64_t refine_steps,
                     std::optional<double> max_l1, bool constant_time, c10::string_view precision) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kMostSteps = 1e6;
  check_number("step_size", step_size, 0, 1e6);
  check_number("max_steps", max_steps, 0, kMostSteps);
  check_number("margin", margin, 0, kInfinity);
  check_number("tie_gap", tie_gap, 1e-6, 0.1);
  check_number("refine_steps", refine_steps, 0, kMostSteps);
  if (max_l1) check_number("max_l1", *max_l1, 0, kInfinity);
  return {
      parse<Features>("features", features,
                      {{"sorted", Features::kSorted},
                       {"raw", Features::kRaw},
                       {"top3", Features::kTop3},
                       {"sorted_raw", Features::kSortedRaw}}),
      parse<Direction>("direction", direction,
                       {{"member", Direction::kMember}, {"both", Direction::kBoth}}),
      parse<Space>("space", space, {{"prob", Space::kProb}, {"logit", Space::kLogit}}),
      parse<Norm>("norm", norm, {{"linf", Norm::kLinf}, {"l2", Norm::kL2}}),
      parse<Method>("method", method, {{"boundary", Method::kBoundary}, {"step", Method::kStep}}),
      step_size,
      static_cast<int32_t>(max_steps),
      margin,
      tie_gap,
      static_cast<int32_t>(refine_steps),
      max_l1.value_or(kInfinity),
      constant_time,
      parse<Precision>("precision", precision,
                       {{"float32", Precision::kFloat32},
                        {"tf32", Precision::kTf32},
                        {"bf16", Precision::kBf16}}),
  };
}

bool raises_on_invalid(c10::string_view on_invalid) {
  return parse<bool>("on_invalid", on_invalid, {{"raise", true}, {"passthrough", false}});
}

void check_probs(const at::Tensor& probs) {
  TORCH_CHECK_VALUE(probs.dim() == 2, "probs must be [n, k], got ", probs.sizes());
  TORCH_CHECK_VALUE(probs.size(1) >= 2 && probs.size(1) <= std::numeric_limits<int32_t>::max(),
                    "probs must have at least 2 classes, got ", probs.sizes());
  TORCH_CHECK_TYPE(probs.scalar_type() == at::kFloat || probs.scalar_type() == at::kDouble,
                   "probs must be float32 or float64, got ", probs.scalar_type());
}

void check_tensors(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   Features features) {
  check_probs(probs);
  const int64_t k = probs.size(1);
  TORCH_CHECK_VALUE(!weights.empty() && weights.size() == biases.size(),
                    "the substitute needs as many weights as biases, at least one; got ",
                    weights.size(), " and ", biases.size());
  int64_t in = feature_width(features, k);
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

Outputs empty_outputs(const at::Tensor& probs) {
  const int64_t n = probs.size(0), k = probs.size(1);
  return {at::empty({n, k}, probs.options()),
          at::empty({n}, probs.options().dtype(at::kChar)),
          at::empty({n}, probs.options().dtype(at::kInt)),
          at::empty({n}, probs.options()),
          at::empty({n}, probs.options()),
          at::empty({n}, probs.options())};
}

void refuse_invalid_rows(const at::Tensor& probs, const at::Tensor& status) {
  const at::Tensor known = status.to(at::kCPU);
  const int8_t* const first = known.const_data_ptr<int8_t>();
  const int8_t* const last = first + known.numel();
  const int8_t* const bad = std::find(first, last, static_cast<int8_t>(Status::kInvalid));
  if (bad == last) return;
  const int64_t row = bad - first;
  const at::Tensor values = probs.select(0, row).to(at::kCPU, at::kDouble).contiguous();
  const double* const p = values.const_data_ptr<double>();
  char reason[160];
  double total = 0;
  for (int64_t j = 0; j < values.numel(); ++j) total += p[j];
  std::snprintf(reason, sizeof reason, "it sums to %.6g (must be 1 within %g)", total,
                kSumTolerance);
  for (int64_t j = 0; j < values.numel(); ++j) {
    if (p[j] >= 0 && p[j] < std::numeric_limits<double>::infinity()) continue;
    std::snprintf(reason, sizeof reason, "column %lld is %g (must be finite and not negative)",
                  static_cast<long long>(j), std::isnan(p[j]) ? NAN : p[j]);
    break;
  }
  TORCH_CHECK_VALUE(false, "probs row ", row, " is not a probability vector: ", reason,
                    "; mend or remove the row, or pass on_invalid=\"passthrough\"");
}

}  // namespace aeppt
