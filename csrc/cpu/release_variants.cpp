// The choice of the release's instruction set; see release_variants.h.
#include "release_variants.h"

#include <string_view>

#include "variants.h"

namespace aeppt {
namespace {

// The official test vectors for the key 00 01 ... 0f: no bytes, and the bytes 00 01 ... 0e.
constexpr SipKey kTestKey = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
static_assert([] {
  generic::SipHash<uint64_t> hash(kTestKey);
  hash.absorb(0);
  return hash.finish();
}() == 0x726fdb47dd0e0e31);
static_assert([] {
  generic::SipHash<uint64_t> hash(kTestKey);
  hash.absorb(0x0706050403020100);
  hash.absorb(0x0f0e0d0c0b0a0908);
  return hash.finish();
}() == 0xa129ca6149be45e5);

}  // namespace

const ReleaseVariant& chosen_release() {
  const std::string_view name = chosen_variant().name;
  if (name == "emulated") return kEmulatedRelease;
#if defined(__x86_64__)
  if (name == "avx2") return kAvx2Release;
  if (name != "baseline") return kAvx512Release;
#endif
  return kBaselineRelease;
}

}  // namespace aeppt
