// The CPU kernel for AVX-512 with products of bf16 pairs.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#define AEPPT_VARIANT avx512_bf16
#define AEPPT_VECTOR_BYTES 64
#define AEPPT_BF16
#include "tile_search.h"
#include "variants.h"

namespace aeppt {

extern const Variant kAvx512Bf16Variant = {
    "avx512_bf16",
    [] { return kAvx512Variant.supported() && __builtin_cpu_supports("avx512bf16"); },
    avx512_bf16::search_rows<float>,
    avx512_bf16::search_rows<double>,
    true,
};

}  // namespace aeppt
#endif
