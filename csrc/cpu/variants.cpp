// The choice of the CPU kernel's instruction set; see variants.h.
#include "variants.h"

#include <cstdlib>
#include <stdexcept>

namespace aeppt {

const std::vector<const Variant*>& built_variants() {
  static const std::vector<const Variant*> variants = {
#if defined(__x86_64__)
      &kAmxVariant,      &kAvx512Bf16Variant,  &kAvx512Variant,   &kAvx2Variant,
      &kBaselineVariant, &kAmxEmulatedVariant, &kEmulatedVariant,
#else
      &kBaselineVariant,
      &kEmulatedVariant,
#endif
  };
  return variants;
}

namespace {

const Variant& choose() {
  const char* const wanted = std::getenv("AEPPT_ISA");
  std::string names;
  for (const Variant* variant : built_variants()) {
    if (!variant->supported()) continue;
    if (wanted == nullptr || *wanted == '\0' || std::string(wanted) == variant->name) {
      return *variant;
    }
    names += names.empty() ? variant->name : std::string(", ") + variant->name;
  }
  throw std::runtime_error("AEPPT_ISA is '" + std::string(wanted) +
                           "', but this build on this processor has: " + names);
}

}  // namespace

const Variant& chosen_variant() {
  static const Variant& variant = choose();
  return variant;
}

}  // namespace aeppt
