// The CPU kernel for AVX-512.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define AEPPT_VARIANT avx512
#define AEPPT_VECTOR_BYTES 64
#include "tile_search.h"
#include "variants.h"

namespace aeppt {

extern const Variant kAvx512Variant = {
    "avx512",
    [] {
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    },
    avx512::search_rows<float>,
    avx512::search_rows<double>,
};

}  // namespace aeppt
#endif
