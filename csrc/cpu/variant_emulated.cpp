// The CUDA kernel's source on the CPU, one block per worker: for tests, and never chosen unless
// AEPPT_ISA names it.
#undef _FORTIFY_SOURCE  // its longjmp knows one stack only
#define AEPPT_INDEX int32_t
#define AEPPT_VARIANT emulated
#include <cmath>
#include <memory>
#include <vector>

#include "../cuda/block_search.h"
#include "variants.h"

namespace aeppt {
namespace emulated {

constexpr int64_t kSlots = 5;  // few, so that slots are refilled and groups of rows are not full
constexpr int kThreads = 256;

// The weights for the matrix units, in memory that lives as long as this.
template <typename Unit>
class PackedFragments {
 public:
  PackedFragments(const Layer<float>* layers, int32_t count) : layers_(count), memory_(2 * count) {
    for (int32_t l = 0; l + 1 < count; ++l) {
      const Layer<float>& layer = layers[l];
      layers_[l].forward = pack(memory_[2 * l], layer.forward, layer.in, layer.out);
      layers_[l].backward = pack(memory_[2 * l + 1], layer.backward, layer.out, layer.in);
    }
  }
  const LayerFragments* layers() const { return layers_.data(); }

 private:
  static const uint32_t* pack(std::vector<uint32_t>& words, const float* panels, int64_t depth,
                              int64_t width) {
    words.resize(Fragments<Unit>::words(depth, width) + 4);
    uint32_t* first = words.data();
    while (reinterpret_cast<uintptr_t>(first) % 16 != 0) ++first;
    for (int64_t i = 0; i < Fragments<Unit>::words(depth, width); ++i) {
      first[i] = Fragments<Unit>::word(i, depth, width, [=](int64_t output, int64_t input) {
        return panels[output / kPanel * kPanel * depth + input * kPanel + output % kPanel];
      });
    }
    return first;
  }

  std::vector<LayerFragments> layers_;
  std::vector<std::vector<uint32_t>> memory_;
};

template <typename T, int kLanes>
void search_block(const Search<T>& search, const LayerFragments* fragments,
                  std::atomic<int64_t>& next_row) {
  const auto layout = TileLayout<T>::of(search, search.layers, kSlots, kThreads / kLanes);
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(64, (layout.bytes + 63) / 64 * 64)), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  const BlockSearch<T, Block<kLanes, kThreads>> block(search, search.layers, fragments, layout,
                                                      memory.get());
  const auto body = [&] { block.run(&next_row); };
  Threads(kThreads).run(body);
}

template <typename T>
void search_block(const Search<T>& search, const LayerFragments* fragments,
                  std::atomic<int64_t>& next_row) {
  if (search.classes <= kFewClasses) search_block<T, 8>(search, fragments, next_row);
  else if (search.classes <= kManyClasses) search_block<T, kWarp>(search, fragments, next_row);
  else search_block<T, kThreads>(search, fragments, next_row);
}

template <typename T>
void search_rows(const Search<T>& search, int64_t, std::atomic<int64_t>& next_row) {
  if constexpr (std::is_same_v<T, float>) {
    const auto coarsely = [&](auto unit) {
      const PackedFragments<decltype(unit)> packed(search.layers, search.layer_count);
      search_block(search, packed.layers(), next_row);
    };
    switch (search.options.precision) {
      case Precision::kBf16:
        return coarsely(MatrixUnit<Precision::kBf16>());
      case Precision::kTf32:
        return coarsely(MatrixUnit<Precision::kTf32>());
      case Precision::kFloat32:
        break;
    }
  }
  search_block(search, nullptr, next_row);
}

}  // namespace emulated

extern const Variant kEmulatedVariant = {
    "emulated",
    [] { return true; },
    emulated::search_rows<float>,
    emulated::search_rows<double>,
};

}  // namespace aeppt
