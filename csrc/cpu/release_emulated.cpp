#include "release_variants.h"
namespace aeppt {
extern const ReleaseVariant kEmulatedRelease = kBaselineRelease;
}
