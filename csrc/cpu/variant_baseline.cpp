// The CPU kernel for whatever instruction set the compiler assumes by default.
#define AEPPT_VARIANT baseline
#define AEPPT_VECTOR_BYTES 16
#include "tile_search.h"
#include "variants.h"

namespace aeppt {

extern const Variant kBaselineVariant = {
    "baseline",
    [] { return true; },
    baseline::search_rows<float>,
    baseline::search_rows<double>,
};

}  // namespace aeppt
