// The CPU kernel for AVX-512 with AMX's tiles for products in bf16.
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#pragma GCC target( \
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#define AEPPT_VARIANT amx
#define AEPPT_VECTOR_BYTES 64
#define AEPPT_BF16
#define AEPPT_TILES HardwareTiles
#include "tile_search.h"
#include "variants.h"

namespace aeppt {
namespace {

// Whether the processor has tiles that multiply bf16, and Linux lets this process use them.
bool has_tiles() {
  constexpr uint32_t kBf16 = 1u << 22, kTiles = 1u << 24;
  uint32_t a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & (kBf16 | kTiles)) != (kBf16 | kTiles)) return false;
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

extern const Variant kAmxVariant = {
    "amx",
    [] { return kAvx512Bf16Variant.supported() && has_tiles(); },
    amx::search_rows<float>,
    amx::search_rows<double>,
    true,
};

}  // namespace aeppt
#endif
