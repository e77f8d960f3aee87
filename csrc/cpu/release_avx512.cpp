// The ranking release for AVX-512.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define AEPPT_VARIANT avx512
#define AEPPT_VECTOR_BYTES 64
#include "release_rows.h"
#include "release_variants.h"

namespace aeppt {

extern const ReleaseVariant kAvx512Release = {avx512::release_blocks<float>,
                                              avx512::release_blocks<double>};

}  // namespace aeppt
#endif
