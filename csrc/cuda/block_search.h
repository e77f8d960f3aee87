// The whole perturbation search of the rows of one block.
//
// A block has a fixed number of slots. Each round, the rows decide what they want next (a team of
// lanes works on each), and a finished row's slot goes to the next waiting row; then the products
// are made for all rows that want them, by all warps. A row's arithmetic depends on that row alone,
// so its answer is bit-identical alone and in any batch.
#pragma once

#include <cstdint>
#include <type_traits>

#include "aeppt/row_search.h"
#include "aeppt/search.h"
#include "device_lanes.h"
#include "order.h"
#include "product.h"

namespace aeppt::AEPPT_VARIANT {

static_assert(kPanel == kWarp, "a lane owns one output of a panel");

// f(std::integral_constant<int, lanes>()) for the lanes of a team. They follow from the number of
// classes alone, so that a sum has one order: few, a warp, or the whole block.
template <typename F>
void with_team(int64_t classes, F f) {
  if (classes <= 16) f(std::integral_constant<int, 8>());
  else if (classes <= 256) f(std::integral_constant<int, kWarp>());
  else f(std::integral_constant<int, kThreads>());
}

// The weights of a layer once more, for the matrix units (matrix_unit.h); null in full precision.
struct LayerFragments {
  const uint32_t *forward, *backward;
};

template <typename T>
struct Slot : Row<T> {
  bool live, known;  // `known`: the entries are in the order of an earlier point
  Next next;
};

// Where the arrays of a block's slots lie; every array starts at a multiple of 16 bytes.
template <typename T>
struct TileLayout {
  Index slots;
  // Elements per slot: an array of classes or of inputs, all activations, an order.
  Index row, hidden, index;
  int64_t list_at, row_at, index_at, hidden_at, scratch_at, scratch_bytes, bytes;

  // Products read up to 16 elements at once, and those of eight rows together: rows are half the
  // banks of shared memory apart.
  static constexpr int64_t spaced(int64_t n) { return (n + 15) / 32 * 32 + 16; }
  static constexpr int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

  static TileLayout of(const Search<T>& search, const Layer<T>* layers, int64_t slots,
                       int64_t teams) {
    TileLayout layout{};
    layout.slots = slots;
    layout.row = spaced(layers[0].in > search.classes ? layers[0].in : search.classes);
    layout.hidden = spaced(hidden_width(layers, search.layer_count));
    const Features features = search.options.features;
    const bool sorted = features == Features::kSorted || features == Features::kSortedRaw;
    layout.index = aligned((sorted ? search.classes : 3) * sizeof(int32_t)) / sizeof(int32_t);
    layout.list_at = aligned(slots * sizeof(Slot<T>));
    layout.row_at = layout.list_at + aligned(slots * sizeof(int32_t));
    layout.index_at = layout.row_at + 4 * slots * layout.row * sizeof(T);
    layout.hidden_at = layout.index_at + slots * layout.index * sizeof(int32_t);
    layout.scratch_at = layout.hidden_at + slots * layout.hidden * sizeof(T);
    layout.scratch_bytes = sorted ? layout.row * sizeof(T) + layout.index * sizeof(int32_t) : 0;
    layout.bytes = layout.scratch_at + teams * layout.scratch_bytes;
    return layout;
  }
};

template <typename T, typename Block>
class BlockSearch {
 public:
  using Lanes = typename Block::Lanes;

  AEPPT_DEVICE BlockSearch(const Search<T>& search, const Layer<T>* layers,
                           const LayerFragments* fragments, const TileLayout<T>& layout,
                           char* memory)
      : s_(search), layers_(layers), fragments_(fragments), layout_(layout), memory_(memory) {}

  // Searches the rows that next_row() gives, until one is beyond the last.
  template <typename F>
  AEPPT_DEVICE void run(F next_row) const {
    const Index slots = layout_.slots;
    int32_t* const list = reinterpret_cast<int32_t*>(memory_ + layout_.list_at);
    block_.each(layout_.bytes / sizeof(int32_t),
                [&](Index i) { reinterpret_cast<int32_t*>(memory_)[i] = 0; });
    while (block_.any(slots, [&](Lanes lanes, Index i) { return advance(lanes, i, next_row); })) {
      AEPPT_UNROLL(1)
      for (Index i = 0; i < 3; ++i) {
        const Pass pass = static_cast<Pass>(i);
        const Index count = block_.select(slots, [&](Index i) { return wants(i, pass); }, list);
        if (count == 0) continue;
        propagate(list, count, pass);
        if (pass != Pass::kBackward) continue;
        block_.teams(count, [&](Lanes lanes, Index a) { step(lanes, list[a]); });
      }
    }
  }

 private:
  // ---- memory ----

  AEPPT_DEVICE Slot<T>& slot(Index i) const { return reinterpret_cast<Slot<T>*>(memory_)[i]; }
  AEPPT_DEVICE Slot<T> read(Lanes lanes, Index i) const {
    Slot<T> slot = lanes.read(&this->slot(i));
    slot.start = row(0, i);
    slot.point = row(1, i);
    slot.end = row(2, i);
    slot.best = s_.out + slot.row * s_.classes;
    return slot;
  }
  AEPPT_DEVICE void write(Lanes lanes, Index i, const Slot<T>& changed) const {
    lanes.each(1, [&](Index) { slot(i) = changed; });
  }
  // An array of a slot: 0 start, 1 point, 2 end or gradient, 3 features.
  AEPPT_DEVICE T* row(Index array, Index i) const {
    return reinterpret_cast<T*>(memory_ + layout_.row_at) +
           (array * layout_.slots + i) * layout_.row;
  }
  AEPPT_DEVICE T* hidden(Index i) const {
    return reinterpret_cast<T*>(memory_ + layout_.hidden_at) + i * layout_.hidden;
  }
  AEPPT_DEVICE bool coarse() const { return fragments_[0].forward != nullptr; }
  AEPPT_DEVICE bool sorted() const { return s_.options.features == Features::kSorted; }
  AEPPT_DEVICE bool raw() const { return s_.options.features == Features::kRaw; }
  AEPPT_DEVICE bool sorted_raw() const { return s_.options.features == Features::kSortedRaw; }
  AEPPT_DEVICE Entries<T> entries(Index i) const {
    return {row(3, i), reinterpret_cast<int32_t*>(memory_ + layout_.index_at) + i * layout_.index};
  }
  AEPPT_DEVICE RankOrder<T, Lanes> order(Lanes lanes) const {
    char* const scratch = memory_ + layout_.scratch_at + block_.team() * layout_.scratch_bytes;
    return {lanes, static_cast<Index>(s_.classes),
            Entries<T>{reinterpret_cast<T*>(scratch),
                       reinterpret_cast<int32_t*>(scratch + layout_.row * sizeof(T))}};
  }
  AEPPT_DEVICE T* inputs(Index i) const { return row(raw() ? 1 : 3, i); }
  // The activations that the last layer reads, at the end of all.
  AEPPT_DEVICE T* last_hidden(Index i) const { return hidden(i) + last_hidden_at(); }
  AEPPT_DEVICE Index last_hidden_at() const {
    Index at = 0;
    for (int32_t l = 0; l + 2 < s_.layer_count; ++l) at += padded(layers_[l].out);
    return at;
  }

  // ---- what a team does with its row ----

  // Whether the slot has a row, which then is to be evaluated.
  template <typename F>
  AEPPT_DEVICE bool advance(Lanes lanes, Index i, F next_row) const {
    const RowSearch<T, Lanes> search(s_, lanes, coarse());
    Slot<T> slot = read(lanes, i);
    slot.next = Next::kNothing;
    if (slot.live) {
      slot.score = score(lanes, i);
      slot.next = search.decide(slot);
      if (slot.next == Next::kNothing) search.finish(slot);
      slot.live = slot.next != Next::kNothing;
    }
    while (!slot.live) {
      const int64_t taken = lanes.once(next_row);
      if (taken >= s_.rows) break;
      slot.best = s_.out + taken * s_.classes;
      slot.known = false;
      slot.live = search.load(slot, taken);
      slot.next = Next::kEvaluate;
    }
    if (slot.live && slot.next == Next::kEvaluate) look(lanes, i, slot);
    if (slot.next == Next::kGradient) start_backward(lanes, i);
    write(lanes, i, slot);
    return slot.live;
  }

  // Brings the features in line with the point.
  AEPPT_DEVICE void look(Lanes lanes, Index i, Slot<T>& slot) const {
    if (s_.options.features == Features::kTop3) order(lanes).top3(slot.point, entries(i));
    else if (!raw()) order(lanes).sort(slot.point, entries(i), slot.known);
    if (sorted_raw()) {
      T *const point = slot.point, *const features = row(3, i) + s_.classes;
      lanes.each(s_.classes, [=](Index j) { features[j] = point[j]; });
    }
    slot.known = true;
  }

  AEPPT_DEVICE T score(Lanes lanes, Index i) const {
    const Layer<T>& last = layers_[s_.layer_count - 1];
    const T* const x = s_.layer_count == 1 ? inputs(i) : last_hidden(i);
    const T* const weight = last.forward;
    const double sum = lanes.sum(last.in, [=](Index j) { return x[j] * weight[j]; });
    return static_cast<T>(sum) + last.bias[0];
  }

  // The gradient at the last hidden layer, in place of its activations.
  AEPPT_DEVICE void start_backward(Lanes lanes, Index i) const {
    const Layer<T>& last = layers_[s_.layer_count - 1];
    const T* const weight = last.forward;
    if (s_.layer_count == 1) {
      T* const gradient = row(2, i);
      lanes.each(last.in, [=](Index j) { gradient[j] = weight[j]; });
    } else {
      T* const h = last_hidden(i);
      lanes.each(last.in, [=](Index j) { h[j] = h[j] > 0 ? weight[j] : T(0); });
    }
  }

  AEPPT_DEVICE void step(Lanes lanes, Index i) const {
    const RowSearch<T, Lanes> search(s_, lanes);
    Slot<T> slot = read(lanes, i);
    const Entries<T> entries = this->entries(i);
    const Index k = s_.classes;
    if (s_.options.features == Features::kTop3) {
      T* const end = slot.end;
      const Index width = layers_[0].in;
      const T first = lanes.read(end), second = lanes.read(end + (width > 1 ? 1 : 0)),
              third = lanes.read(end + (width > 2 ? 2 : 0));
      lanes.each(k, [=](Index j) {
        end[j] = j == entries.index[0]                ? first
                 : j == entries.index[1]              ? second
                 : width > 2 && j == entries.index[2] ? third
                                                      : T(0);
      });
    }
    if (sorted_raw()) {
      // That to a class is that to its place and that to its entry as it stands.
      T *const by_place = slot.end, *const by_class = by_place + k;
      lanes.each(k, [=](Index r) { by_class[entries.index[r]] += by_place[r]; });
      lanes.each(k, [=](Index j) { by_place[j] = by_class[j]; });
    }
    // With sorted features the step is taken on the sorted probabilities: what moved one way stays
    // sorted.
    T* const stepped = sorted() ? entries.value : slot.point;
    Index place = slot.label;
    if (sorted()) {
      const Index label = place;
      place = lanes.first(k, [=](Index r) { return entries.index[r] == label; });
    }
    search.step(slot, stepped, stepped, slot.end, place);
    if (sorted()) order(lanes).sort_moved(entries, slot.end, s_.options.norm, slot.point);
    else look(lanes, i, slot);
    slot.next = Next::kEvaluate;
    write(lanes, i, slot);
  }

  // ---- products, by all warps ----

  enum class Pass { kBackward, kExact, kCoarse };

  AEPPT_DEVICE bool wants(Index i, Pass pass) const {
    const Slot<T>& slot = this->slot(i);
    if (pass == Pass::kBackward) return slot.next == Next::kGradient;
    return slot.live && slot.exact == (pass == Pass::kExact);
  }

  // Makes the activations of all layers, or the gradients of all: these take the place of the
  // activations, whose signs are the mask of the ReLU.
  AEPPT_DEVICE void propagate(const int32_t* list, Index count, Pass pass) const {
    const bool back = pass == Pass::kBackward;
    const Index hidden_layers = s_.layer_count - 1;
    Product<T> p{};
    p.x = back ? last_hidden(0) : inputs(0);
    p.x_stride = back ? layout_.hidden : layout_.row;
    block_.meet();
    for (Index step = 0; step < hidden_layers; ++step) {
      const Index l = back ? hidden_layers - 1 - step : step;
      const Layer<T>& layer = layers_[l];
      p.panels = back ? layer.backward : layer.forward;
      p.fragments = pass == Pass::kExact ? nullptr
                    : back               ? fragments_[l].backward
                                         : fragments_[l].forward;
      p.bias = back ? nullptr : layer.bias;
      p.depth = back ? layer.out : layer.in;
      p.width = back ? layer.in : layer.out;
      const bool gradient = back && l == 0;
      p.y = gradient    ? row(2, 0)
            : back      ? const_cast<T*>(p.x) - padded(layer.in)
            : step == 0 ? hidden(0)
                        : const_cast<T*>(p.x) + padded(layer.in);
      p.y_stride = gradient ? layout_.row : layout_.hidden;
      p.after = gradient ? After::kNothing : back ? After::kMask : After::kRelu;
      make(p, list, count);
      p.x = p.y;
      p.x_stride = layout_.hidden;
    }
  }

  AEPPT_DEVICE void make(const Product<T>& p, const int32_t* list, Index count) const {
    if constexpr (std::is_same_v<T, float>) {
      if (p.fragments != nullptr) {
        return with_matrix_unit(s_.options.precision, [&](auto unit) {
          multiply_coarsely<decltype(unit)>(block_, p, list, count);
        });
      }
    }
    multiply(block_, p, list, count);
  }

  const Search<T>& s_;
  const Layer<T>* const layers_;
  const LayerFragments* const fragments_;
  const TileLayout<T>& layout_;
  char* const memory_;
  const Block block_{};
};

}  // namespace aeppt::AEPPT_VARIANT
