// The arguments of aeppt::perturb_search, checked and read; the same for every device.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "aeppt/search.h"

namespace aeppt {

using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Throws ValueError that names the option, its value and its range.
Options read_options(c10::string_view features, c10::string_view direction, c10::string_view space,
                     c10::string_view norm, c10::string_view method, double step_size,
                     int64_t max_steps, double margin, double tie_gap, int64_t refine_steps,
                     std::optional<double> max_l1, bool constant_time, c10::string_view precision);

bool raises_on_invalid(c10::string_view on_invalid);

// Throws ValueError or TypeError unless probs are rows of at least two classes, in float or double.
void check_probs(const at::Tensor& probs);

// Throws ValueError or TypeError where shapes, dtypes or devices do not fit each other.
void check_tensors(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                   Features features);

// Empty outputs for probs [n, k]: probs, status, steps, score_before, score_after, l1.
Outputs empty_outputs(const at::Tensor& probs);

// Throws ValueError that names the first row that is not a probability vector, and says why.
void refuse_invalid_rows(const at::Tensor& probs, const at::Tensor& status);

// The op on a device, by the search of rows there; `raises` tells it that every status will be
// read.
using SearchDevice = Outputs (*)(const at::Tensor& probs, at::TensorList weights,
                                 at::TensorList biases, const Options& options, bool raises);

template <SearchDevice search>
Outputs perturb_search(const at::Tensor& probs, at::TensorList weights, at::TensorList biases,
                       c10::string_view features, c10::string_view direction,
                       c10::string_view space, c10::string_view norm, c10::string_view method,
                       double step_size, int64_t max_steps, double margin, double tie_gap,
                       int64_t refine_steps, std::optional<double> max_l1, bool constant_time,
                       c10::string_view precision, c10::string_view on_invalid) {
  const Options options =
      read_options(features, direction, space, norm, method, step_size, max_steps, margin, tie_gap,
                   refine_steps, max_l1, constant_time, precision);
  const bool raises = raises_on_invalid(on_invalid);
  check_tensors(probs, weights, biases, options.features);
  const Outputs outputs = search(probs, weights, biases, options, raises);
  if (raises) refuse_invalid_rows(probs, std::get<1>(outputs));
  return outputs;
}

template <typename T>
Search<T> make_search(const at::Tensor& probs, const Options& options, const Outputs& outputs) {
  return {probs.size(0),
          probs.size(1),
          probs.const_data_ptr<T>(),
          probs.stride(0),
          probs.stride(1),
          nullptr,
          0,
          options,
          std::get<0>(outputs).template data_ptr<T>(),
          std::get<1>(outputs).template data_ptr<int8_t>(),
          std::get<2>(outputs).template data_ptr<int32_t>(),
          std::get<3>(outputs).template data_ptr<T>(),
          std::get<4>(outputs).template data_ptr<T>(),
          std::get<5>(outputs).template data_ptr<T>()};
}

}  // namespace aeppt
