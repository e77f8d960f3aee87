// The instruction-set variants of the CPU kernel, and the choice between them at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "aeppt/search.h"
#include "row_queue.h"

namespace aeppt {

template <typename T>
using SearchRows = void (*)(const Search<T>&, int64_t workers, RowQueue& queue);

struct Variant {
  const char* name;
  bool (*supported)();  // by this processor
  SearchRows<float> search_float;
  SearchRows<double> search_double;
  bool makes_bf16 = false;  // gradient steps in bf16, from weights in pairs

  template <typename T>
  SearchRows<T> search_rows() const {
    if constexpr (sizeof(T) == 4) return search_float;
    else return search_double;
  }
};

extern const Variant kBaselineVariant, kEmulatedVariant;
#if defined(__x86_64__)
extern const Variant kAvx2Variant, kAvx512Variant, kAvx512Bf16Variant, kAmxVariant,
    kAmxEmulatedVariant;
#endif

// Those built in, the fastest first; last come those that emulate another machine, for tests.
const std::vector<const Variant*>& built_variants();

// The fastest that this processor supports, or the one that AEPPT_ISA names. Throws
// std::runtime_error where AEPPT_ISA names one that is unknown or not supported.
const Variant& chosen_variant();

}  // namespace aeppt
