// The ranking release for whatever instruction set the compiler assumes by default.
#define AEPPT_VARIANT baseline
#define AEPPT_VECTOR_BYTES 16
#include "release_rows.h"
#include "release_variants.h"

namespace aeppt {

extern const ReleaseVariant kBaselineRelease = {baseline::release_blocks<float>,
                                                baseline::release_blocks<double>};

}  // namespace aeppt
