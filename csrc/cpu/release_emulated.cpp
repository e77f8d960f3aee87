// The source of the CUDA release on the CPU, one block per worker: for tests, and never chosen
// unless AEPPT_ISA names it.
#undef _FORTIFY_SOURCE  // its longjmp knows one stack only
#define AEPPT_VARIANT emulated
#include <algorithm>
#include <memory>
#include <new>

#include "../cuda/block_release.h"
#include "release_variants.h"

namespace aeppt {
namespace emulated {

template <typename T, int kLanes>
void release_blocks(const Release<T>& release, RowQueue& blocks) {
  using RowsBlock = Block<kLanes>;
  const auto layout = ReleaseLayout<T>::of(release.classes, RowsBlock::kTeams);
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(64, (layout.bytes + 63) / 64 * 64)), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  Threads threads(1, kThreads, layout.bytes);
  const int64_t size = rows_of_block(release.classes);
  for (;;) {
    blocks.look_for_signals();
    const int64_t first = blocks.take() * size;
    if (first >= release.rows) return;
    threads.run([&] {
      BlockRelease<T, RowsBlock>(release, layout, memory.get())
          .run(first, std::min(first + size, release.rows), RowsBlock::kTeams);
    });
  }
}

template <typename T>
void release_blocks(const Release<T>& release, RowQueue& blocks) {
  with_release_team(release.classes, [&](auto lanes) {
    release_blocks<T, decltype(lanes)::value>(release, blocks);
  });
}

}  // namespace emulated

extern const ReleaseVariant kEmulatedRelease = {emulated::release_blocks<float>,
                                                emulated::release_blocks<double>};

}  // namespace aeppt
