// The kernel of variant_amx.cpp with its tiles emulated: for tests, and never chosen unless
// AEPPT_ISA names it.
#if defined(__x86_64__)
#pragma GCC target( \
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#define AEPPT_VARIANT amx_emulated
#define AEPPT_VECTOR_BYTES 64
#define AEPPT_BF16
#define AEPPT_TILES EmulatedTiles
#include "tile_search.h"
#include "variants.h"

namespace aeppt {

extern const Variant kAmxEmulatedVariant = {
    "amx_emulated",
    [] { return kAvx512Bf16Variant.supported(); },
    amx_emulated::search_rows<float>,
    amx_emulated::search_rows<double>,
    true,
};

}  // namespace aeppt
#endif
