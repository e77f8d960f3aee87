// The search on the current CUDA device and stream: what the op calls.
#pragma once

#include <ATen/ATen.h>

#include "aeppt/search.h"

namespace aeppt::cuda {

// The layers whose description fits into a kernel's parameters.
constexpr int32_t kMostLayers = 56;

// Searches all rows, of which there is at least one; `search.layers` is not read.
template <typename T>
void search_rows(const Search<T>& search, at::TensorList weights, at::TensorList biases);

}  // namespace aeppt::cuda
