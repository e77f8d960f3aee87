// The ranking release for AVX2.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define AEPPT_VARIANT avx2
#define AEPPT_VECTOR_BYTES 32
#include "release_rows.h"
#include "release_variants.h"

namespace aeppt {

extern const ReleaseVariant kAvx2Release = {avx2::release_blocks<float>,
                                            avx2::release_blocks<double>};

}  // namespace aeppt
#endif
