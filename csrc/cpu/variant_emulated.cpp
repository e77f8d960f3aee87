// The CUDA kernel's source on the CPU, one block or cluster per worker: for tests, and never chosen
// unless AEPPT_ISA names it.
#undef _FORTIFY_SOURCE  // its longjmp knows one stack only
#define AEPPT_VARIANT emulated
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "../cuda/block_search.h"
#include "variants.h"

namespace aeppt {
namespace emulated {

constexpr int64_t kSlots = 5;  // few, so that slots are refilled and groups of rows are not full
constexpr int64_t kClusterRows = 3;

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
  using Words = std::vector<Four<uint32_t>>;  // aligned as they are loaded

  static const uint32_t* pack(Words& words, const float* panels, int64_t depth, int64_t width) {
    const int64_t count = Fragments<Unit>::words(depth, width);
    words.resize(count / 4);
    for (int64_t i = 0; i < count; ++i) {
      words[i / 4].at[i % 4] =
          Fragments<Unit>::word(i, depth, width, [=](int64_t output, int64_t input) {
            return panels[output / kPanel * kPanel * depth + input * kPanel + output % kPanel];
          });
    }
    return words[0].at;
  }

  std::vector<LayerFragments> layers_;
  std::vector<Words> memory_;
};

// The answers of the second block of a cluster. Both come to the same bits, and on a GPU both write
// them to one place; here each has its own, so that ThreadSanitizer sees only what matters.
template <typename T>
class SecondAnswers {
 public:
  explicit SecondAnswers(const Search<T>& search)
      : first_(search),
        probs_(search.rows * search.classes),
        scores_(3 * search.rows),
        steps_(search.rows),
        status_(search.rows) {}

  Search<T> search() {
    Search<T> search = first_;
    const int64_t n = search.rows;
    search.out = probs_.data();
    search.status = status_.data();
    search.steps = steps_.data();
    search.score_before = scores_.data();
    search.score_after = search.score_before + n;
    search.l1 = search.score_after + n;
    return search;
  }

  // Whether those of a row are the first block's.
  bool agree(int64_t row) {
    const auto same = [row](const auto* one, const auto* other, int64_t n) {
      return std::memcmp(one + row * n, other + row * n, n * sizeof *one) == 0;
    };
    const Search<T> own = search();
    return same(own.out, first_.out, own.classes) && same(own.status, first_.status, 1) &&
           same(own.steps, first_.steps, 1) && same(own.score_before, first_.score_before, 1) &&
           same(own.score_after, first_.score_after, 1) && same(own.l1, first_.l1, 1);
  }

 private:
  const Search<T>& first_;
  std::vector<T> probs_, scores_;
  std::vector<int32_t> steps_;
  std::vector<int8_t> status_;
};

// Blocks of a cluster, which share few rows; else one block takes them as they come.
template <typename T, int kLanes>
void search_block(const Search<T>& search, const LayerFragments* fragments, RowQueue& queue) {
  const int blocks = search.rows <= kClusterRows ? kMostBlocks : 1;
  const auto layout =
      TileLayout<T>::of(search, search.layers, blocks > 1 ? 1 : kSlots, kThreads / kLanes);
  const int64_t bytes = (layout.bytes + 63) / 64 * 64;
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(64, blocks * bytes)), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  Threads threads(blocks, kThreads, bytes);
  const auto run = [&](const Search<T>& second, auto next_row) {
    threads.run([&] {
      const int rank = cluster_rank();
      BlockSearch<T, Block<kLanes>>(rank == 0 ? search : second, search.layers, fragments, layout,
                                    memory.get() + rank * bytes)
          .run([&] { return next_row(rank); });
    });
  };
  if (blocks == 1) return run(search, [&](int) { return queue.take(); });
  SecondAnswers<T> second(search);
  const Search<T> task = second.search();
  for (int64_t row; (row = queue.take()) < search.rows;) {
    bool taken[kMostBlocks] = {};
    run(task, [&](int rank) { return std::exchange(taken[rank], true) ? search.rows : row; });
    if (!second.agree(row)) {
      std::fputs("aeppt: the blocks of an emulated cluster disagree\n", stderr);
      std::abort();
    }
  }
}

template <typename T>
void search_block(const Search<T>& search, const LayerFragments* fragments, RowQueue& queue) {
  with_team(search.classes,
            [&](auto lanes) { search_block<T, decltype(lanes)::value>(search, fragments, queue); });
}

template <typename T>
void search_rows(const Search<T>& search, int64_t, RowQueue& queue) {
  if constexpr (std::is_same_v<T, float>) {
    if (search.options.precision != Precision::kFloat32) {
      return with_matrix_unit(search.options.precision, [&](auto unit) {
        const PackedFragments<decltype(unit)> packed(search.layers, search.layer_count);
        search_block(search, packed.layers(), queue);
      });
    }
  }
  const std::vector<LayerFragments> none(search.layer_count);
  search_block(search, none.data(), queue);
}

}  // namespace emulated

extern const Variant kEmulatedVariant = {
    "emulated",
    [] { return true; },
    emulated::search_rows<float>,
    emulated::search_rows<double>,
};

}  // namespace aeppt
