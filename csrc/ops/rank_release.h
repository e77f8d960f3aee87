// The arguments of aeppt::rank_release, checked and read; the same for every device.
#pragma once

#include <ATen/ATen.h>

#include <tuple>

#include "aeppt/release.h"
#include "arguments.h"

namespace aeppt {

using ReleaseOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // probs, status, codeword

struct ReleaseArguments {
  at::Tensor probs, confidence_edges, shape_edges, map_of_class, cumulative, codebook, key;

  // Throws ValueError or TypeError where shapes, dtypes or devices do not fit each other.
  void check() const;
  SipKey sip_key() const;
};

// Releases all rows, of which there is at least one, on a device; the tables are contiguous.
// `raises` tells it that every status will be read.
using ReleaseDevice = void (*)(const ReleaseArguments& given, const ReleaseOutputs& outputs,
                               bool raises);

template <ReleaseDevice release>
ReleaseOutputs rank_release(const at::Tensor& probs, const at::Tensor& confidence_edges,
                            const at::Tensor& shape_edges, const at::Tensor& map_of_class,
                            const at::Tensor& cumulative, const at::Tensor& codebook,
                            const at::Tensor& key, c10::string_view on_invalid) {
  const bool raises = raises_on_invalid(on_invalid);
  ReleaseArguments{probs, confidence_edges, shape_edges, map_of_class, cumulative, codebook, key}
      .check();
  const int64_t n = probs.size(0);
  const ReleaseOutputs outputs = {at::empty(probs.sizes(), probs.options()),
                                  at::empty({n}, probs.options().dtype(at::kChar)),
                                  at::empty({n}, probs.options().dtype(at::kInt))};
  if (n > 0) {
    release({probs, confidence_edges.contiguous(), shape_edges.contiguous(),
             map_of_class.contiguous(), cumulative.contiguous(), codebook.contiguous(), key},
            outputs, raises);
  }
  if (raises) refuse_invalid_rows(probs, std::get<1>(outputs));
  return outputs;
}

template <typename T>
Release<T> make_release(const ReleaseArguments& given, const ReleaseOutputs& outputs) {
  return {given.probs.size(0),
          given.probs.size(1),
          given.probs.const_data_ptr<T>(),
          given.probs.stride(0),
          given.probs.stride(1),
          static_cast<int32_t>(given.confidence_edges.size(0) + 1),
          static_cast<int32_t>(given.shape_edges.size(1) + 1),
          static_cast<int32_t>(given.cumulative.size(0)),
          given.confidence_edges.const_data_ptr<double>(),
          given.shape_edges.const_data_ptr<double>(),
          given.map_of_class.const_data_ptr<int32_t>(),
          given.cumulative.const_data_ptr<double>(),
          given.codebook.const_data_ptr<T>(),
          given.sip_key(),
          AEPPT_VARIANT::buckets_of(given.sip_key(), given.probs.size(1)),
          std::get<0>(outputs).template data_ptr<T>(),
          std::get<1>(outputs).template data_ptr<int8_t>(),
          std::get<2>(outputs).template data_ptr<int32_t>()};
}

}  // namespace aeppt
