// The CPU kernel for AVX2 and FMA.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define AEPPT_VARIANT avx2
#define AEPPT_VECTOR_BYTES 32
#include "tile_search.h"
#include "variants.h"

namespace aeppt {

extern const Variant kAvx2Variant = {
    "avx2",
    [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
    avx2::search_rows<float>,
    avx2::search_rows<double>,
};

}  // namespace aeppt
#endif
