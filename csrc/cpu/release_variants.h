// The instruction-set variants of the CPU's ranking release. AEPPT_ISA chooses as for the search:
// what the search has beyond AVX-512 is for products, so its AVX-512 variants share one here.
#pragma once

#include <algorithm>
#include <cstdint>

#include "aeppt/release.h"
#include "row_queue.h"

namespace aeppt {

// Rows are handed out in blocks, large enough that handing out takes no time.
constexpr int64_t rows_of_block(int64_t classes) {
  constexpr int64_t kValues = 1 << 14, kTile = 16;
  return std::max<int64_t>(1, kValues / (classes * kTile)) * kTile;
}

// Releases the rows of the blocks that `blocks` hands out.
template <typename T>
using ReleaseBlocks = void (*)(const Release<T>&, RowQueue& blocks);

struct ReleaseVariant {
  ReleaseBlocks<float> release_float;
  ReleaseBlocks<double> release_double;

  template <typename T>
  ReleaseBlocks<T> release_blocks() const {
    if constexpr (sizeof(T) == 4) return release_float;
    else return release_double;
  }
};

extern const ReleaseVariant kBaselineRelease, kEmulatedRelease;
#if defined(__x86_64__)
extern const ReleaseVariant kAvx2Release, kAvx512Release;
#endif

// The one that goes with chosen_variant().
const ReleaseVariant& chosen_release();

}  // namespace aeppt
