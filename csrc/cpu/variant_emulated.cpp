// The CUDA kernel's source on the CPU, one block per worker: for tests, and never chosen unless
// AEPPT_ISA names it.
#define AEPPT_VARIANT emulated
#include <cmath>
#include <memory>

#include "../cuda/emulated.h"
#include "variants.h"

namespace aeppt {
namespace emulated {

constexpr int64_t kSlots = 5;  // few, so that slots are refilled and groups of rows are not full
constexpr int64_t kThreads = 256;

template <typename T, int kLanes>
void search_block(const Search<T>& search, std::atomic<int64_t>& next_row) {
  const auto layout = TileLayout<T>::of(search, kSlots, kThreads / kLanes);
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(64, (layout.bytes + 63) / 64 * 64)), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  EmulatedBlock<kLanes> block;
  BlockSearch<T, EmulatedBlock<kLanes>>(search, block, layout, memory.get()).run(&next_row);
}

template <typename T>
void search_rows(const Search<T>& search, int64_t, std::atomic<int64_t>& next_row) {
  if (search.classes <= kFewClasses) search_block<T, 8>(search, next_row);
  else if (search.classes <= kManyClasses) search_block<T, kWarp>(search, next_row);
  else search_block<T, kThreads>(search, next_row);
}

}  // namespace emulated

extern const Variant kEmulatedVariant = {
    "emulated",
    [] { return true; },
    emulated::search_rows<float>,
    emulated::search_rows<double>,
};

}  // namespace aeppt
