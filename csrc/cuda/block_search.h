// The whole perturbation search of the rows of one block: written once, compiled for the GPU and,
// with lanes that a CPU thread runs in turn (emulated.h), for tests on any machine.
//
// A block has a fixed number of slots. Each round, the rows decide what they want next (a team of
// lanes works on each), and a finished row's slot goes to the next waiting row; then the products
// are made for all rows that want them, by all warps. A row's arithmetic depends on that row alone,
// so its answer is bit-identical alone and in any batch.
//
// A block brings:
//   Lanes            a team (aeppt/lanes.h), which also offers
//     compact(n, keep, emit)   emit(j, place) for each j that is kept, places in order; how many
//     fetch(counter)           the counter's value before it grew by one
//   teams(n, f)      f(lanes, i) for all i < n
//   warps(n, f)      f(i, lane) for all i < n and all lanes of a warp
//   select(n, f, list)         the i < n for which f(i), in order; how many
// All threads of a block call the last three together, and see afterwards what was written.
#pragma once

#include <cstdint>

#include "aeppt/row_search.h"
#include "aeppt/search.h"
#include "order.h"

namespace aeppt::AEPPT_VARIANT {

constexpr int kWarp = 32;
// The lanes of a team follow from the number of classes alone, so that a sum has one order: 8 up to
// kFewClasses, a warp up to kManyClasses, the whole block beyond.
constexpr int64_t kFewClasses = 16, kManyClasses = 256;
static_assert(kPanel == kWarp, "a lane owns one output of a panel");

template <typename T>
struct Slot : Row<T> {
  bool live, known;  // `known`: the entries are in the order of an earlier point
  bool ordered;      // they are those of the point
  Next next;
};

// Where the arrays of a block's slots lie; every array starts at a multiple of 16 bytes.
template <typename T>
struct TileLayout {
  int64_t slots, teams;
  int64_t row, hidden;  // elements of an array of classes, of all activations of a row
  int64_t slot_at, list_at, row_at, index_at, hidden_at, scratch_at, bytes;

  AEPPT_DEVICE static int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }
  AEPPT_DEVICE static TileLayout of(const Search<T>& search, int64_t slots, int64_t teams) {
    TileLayout layout{};
    layout.slots = slots;
    layout.teams = teams;
    layout.row = aligned(search.classes * sizeof(T)) / sizeof(T);
    for (int32_t l = 0; l + 1 < search.layer_count; ++l) {
      layout.hidden += padded(search.layers[l].out);
    }
    const bool sorted = search.options.features == Features::kSorted;
    const int64_t index_bytes = aligned((sorted ? search.classes : 3) * sizeof(int32_t));
    layout.list_at = aligned(slots * sizeof(Slot<T>));
    layout.row_at = layout.list_at + aligned(slots * sizeof(int32_t));
    layout.index_at = layout.row_at + 4 * slots * layout.row * sizeof(T);
    layout.hidden_at = layout.index_at + slots * index_bytes;
    layout.scratch_at = layout.hidden_at + slots * layout.hidden * sizeof(T);
    const int64_t scratch_bytes = sorted ? layout.row * sizeof(T) + index_bytes : 0;
    layout.bytes = layout.scratch_at + teams * scratch_bytes;
    return layout;
  }
};

template <typename T, typename Block>
class BlockSearch {
 public:
  using Lanes = typename Block::Lanes;

  AEPPT_DEVICE BlockSearch(const Search<T>& search, Block& block, const TileLayout<T>& layout,
                           char* memory)
      : s_(search), block_(block), layout_(layout), memory_(memory) {}

  // Takes rows from the counter, which starts at zero, until none are left.
  template <typename Counter>
  AEPPT_DEVICE void run(Counter* next_row) {
    const int64_t slots = layout_.slots;
    int32_t* const list = reinterpret_cast<int32_t*>(memory_ + layout_.list_at);
    block_.teams(slots, [&](Lanes lanes, int64_t i) {
      Slot<T> slot{};
      store(lanes, i, slot);
    });
    for (;;) {
      block_.teams(slots, [&](Lanes lanes, int64_t i) { advance(lanes, i, next_row); });
      const int64_t asking =
          block_.select(slots, [&](int64_t i) { return slot(i).next == Next::kGradient; }, list);
      if (asking > 0) {
        backward(list, asking);
        block_.teams(asking, [&](Lanes lanes, int64_t a) { step(lanes, list[a]); });
      }
      const int64_t live = block_.select(slots, [&](int64_t i) { return slot(i).live; }, list);
      if (live == 0) return;
      forward(list, live);
    }
  }

 private:
  // ---- memory ----

  AEPPT_DEVICE Slot<T>& slot(int64_t i) const { return reinterpret_cast<Slot<T>*>(memory_)[i]; }
  AEPPT_DEVICE void store(Lanes lanes, int64_t i, const Slot<T>& changed) const {
    lanes.each(1, [&](int64_t) { slot(i) = changed; });
  }
  // The array of classes of a slot: 0 start, 1 point, 2 end, 3 features.
  AEPPT_DEVICE T* row(int64_t array, int64_t i) const {
    return reinterpret_cast<T*>(memory_ + layout_.row_at) +
           (array * layout_.slots + i) * layout_.row;
  }
  AEPPT_DEVICE T* hidden(int64_t i) const {
    return reinterpret_cast<T*>(memory_ + layout_.hidden_at) + i * layout_.hidden;
  }
  AEPPT_DEVICE bool sorted() const { return s_.options.features == Features::kSorted; }
  AEPPT_DEVICE int64_t index_bytes() const {
    return TileLayout<T>::aligned((sorted() ? s_.classes : 3) * sizeof(int32_t));
  }
  AEPPT_DEVICE Entries<T> entries(int64_t i) const {
    return {row(3, i), reinterpret_cast<int32_t*>(memory_ + layout_.index_at + i * index_bytes())};
  }
  // The team that works on slot i always has the same scratch.
  AEPPT_DEVICE RankOrder<T, Lanes> order(Lanes lanes, int64_t i) const {
    const int64_t value_bytes = layout_.row * sizeof(T);
    char* const scratch =
        memory_ + layout_.scratch_at + i % layout_.teams * (value_bytes + index_bytes());
    return {lanes, s_.classes,
            Entries<T>{reinterpret_cast<T*>(scratch),
                       reinterpret_cast<int32_t*>(scratch + value_bytes)}};
  }
  AEPPT_DEVICE const T* inputs(int64_t i) const {
    return s_.options.features == Features::kRaw ? row(1, i) : row(3, i);
  }

  // ---- what a team does with its row ----

  template <typename Counter>
  AEPPT_DEVICE void advance(Lanes lanes, int64_t i, Counter* next_row) const {
    const RowSearch<T, Lanes> search(s_, lanes);
    Slot<T> slot = lanes.read(&this->slot(i));
    slot.next = Next::kNothing;
    if (slot.live) {
      slot.score = score(lanes, i);
      slot.next = search.decide(slot);
      if (slot.next == Next::kNothing) search.finish(slot);
      slot.live = slot.next != Next::kNothing;
    }
    while (!slot.live) {
      const int64_t taken = lanes.fetch(next_row);
      if (taken >= s_.rows) break;
      slot.start = row(0, i);
      slot.point = row(1, i);
      slot.end = row(2, i);
      slot.best = s_.out + taken * s_.classes;
      slot.known = slot.ordered = false;
      slot.live = search.load(slot, taken);
      slot.next = Next::kEvaluate;
    }
    if (slot.live && slot.next == Next::kEvaluate) look(lanes, i, slot);
    if (slot.next == Next::kGradient) start_backward(lanes, i);
    store(lanes, i, slot);
  }

  // Brings the features in line with the point.
  AEPPT_DEVICE void look(Lanes lanes, int64_t i, Slot<T>& slot) const {
    if (s_.options.features == Features::kTop3) {
      order(lanes, i).top3(slot.point, entries(i));
    } else if (sorted() && !slot.ordered) {
      order(lanes, i).sort(slot.point, entries(i), slot.known);
    }
    slot.known = true;
    slot.ordered = false;
  }

  AEPPT_DEVICE T score(Lanes lanes, int64_t i) const {
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    const T* const x =
        s_.layer_count == 1 ? inputs(i) : hidden(i) + layout_.hidden - padded(last.in);
    const T* const weight = last.forward;
    const double sum = lanes.sum(last.in, [=](int64_t j) { return x[j] * weight[j]; });
    return static_cast<T>(sum) + last.bias[0];
  }

  // The gradient at the last hidden layer, in place of its activations.
  AEPPT_DEVICE void start_backward(Lanes lanes, int64_t i) const {
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    const T* const weight = last.forward;
    if (s_.layer_count == 1) {
      T* const gradient = row(2, i);
      lanes.each(last.in, [=](int64_t j) { gradient[j] = weight[j]; });
    } else {
      T* const h = hidden(i) + layout_.hidden - padded(last.in);
      lanes.each(last.in, [=](int64_t j) { h[j] = h[j] > 0 ? weight[j] : T(0); });
    }
  }

  AEPPT_DEVICE void step(Lanes lanes, int64_t i) const {
    const RowSearch<T, Lanes> search(s_, lanes);
    Slot<T> slot = lanes.read(&this->slot(i));
    const Entries<T> entries = this->entries(i);
    const int64_t k = s_.classes;
    if (sorted()) {
      // Taken on the sorted probabilities: what moved one way stays sorted.
      const int64_t label = slot.label;
      const int64_t place = lanes.first(k, [=](int64_t r) { return entries.index[r] == label; });
      search.step(entries.value, slot.end, slot.side, place);
      if (s_.options.norm == Norm::kLinf) order(lanes, i).merge(entries, slot.end, slot.point);
      else order(lanes, i).sort_moved(entries, slot.point);
      slot.ordered = true;
    } else {
      if (s_.options.features == Features::kTop3) {
        T* const end = slot.end;
        const int64_t width = s_.layers[0].in;
        const T first = lanes.read(end), second = lanes.read(end + (width > 1 ? 1 : 0)),
                third = lanes.read(end + (width > 2 ? 2 : 0));
        lanes.each(k, [=](int64_t j) {
          end[j] = j == entries.index[0]                ? first
                   : j == entries.index[1]              ? second
                   : width > 2 && j == entries.index[2] ? third
                                                        : T(0);
        });
      }
      search.step(slot.point, slot.end, slot.side, slot.label);
    }
    look(lanes, i, slot);
    slot.next = Next::kEvaluate;
    store(lanes, i, slot);
  }

  // ---- products, by all warps ----

  enum class After { kNothing, kRelu, kMask };  // kMask: zero where the stored activation is zero

  AEPPT_DEVICE void forward(const int32_t* list, int64_t count) {
    int64_t in_at = 0, out_at = 0;
    for (int32_t l = 0; l + 1 < s_.layer_count; ++l) {
      const Layer<T>& layer = s_.layers[l];
      const auto x = [=, this](int64_t i) { return l == 0 ? inputs(i) : hidden(i) + in_at; };
      const auto y = [=, this](int64_t i) { return hidden(i) + out_at; };
      product<After::kRelu>(list, count, layer.forward, layer.in, layer.out, layer.bias, x, y);
      in_at = out_at;
      out_at += padded(layer.out);
    }
  }

  AEPPT_DEVICE void backward(const int32_t* list, int64_t count) {
    int64_t at = layout_.hidden;
    for (int32_t l = s_.layer_count - 2; l >= 0; --l) {
      const Layer<T>& layer = s_.layers[l];
      at -= padded(layer.out);
      const auto x = [=, this](int64_t i) { return hidden(i) + at; };
      const int64_t below = at - padded(layer.in);
      if (l > 0) {
        const auto y = [=, this](int64_t i) { return hidden(i) + below; };
        product<After::kMask>(list, count, layer.backward, layer.out, layer.in, nullptr, x, y);
      } else {
        const auto y = [=, this](int64_t i) { return row(2, i); };
        product<After::kNothing>(list, count, layer.backward, layer.out, layer.in, nullptr, x, y);
      }
    }
  }

  // y(i)[0..width) = bias + x(i) * weights for the slots i in the list. A warp takes a panel of
  // outputs for some rows; each output is one chain of fused multiply-adds over the depth.
  template <After after, typename X, typename Y>
  AEPPT_DEVICE void product(const int32_t* list, int64_t count, const T* panels, int64_t depth,
                            int64_t width, const T* bias, X x, Y y) {
    if (count == 1) rows_product<1, after>(list, count, panels, depth, width, bias, x, y);
    else rows_product<8, after>(list, count, panels, depth, width, bias, x, y);
  }

  template <int kRows, After after, typename X, typename Y>
  AEPPT_DEVICE void rows_product(const int32_t* list, int64_t count, const T* panels, int64_t depth,
                                 int64_t width, const T* bias, X x, Y y) {
    const int64_t groups = (count + kRows - 1) / kRows;
    block_.warps(groups * ((width + kWarp - 1) / kWarp), [&](int64_t item, int lane) {
      const int64_t first = item % groups * kRows, column = item / groups * kWarp + lane;
      const T* weight = panels + item / groups * kWarp * depth + lane;
      const T* input[kRows];
      T sum[kRows];
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        // A group that is not full repeats its last row, which is not stored.
        input[r] = x(list[first + r < count ? first + r : count - 1]);
        sum[r] = bias ? bias[column] : T(0);
      }
      AEPPT_UNROLL(4)
      for (int64_t i = 0; i < depth; ++i, weight += kWarp) {
        const T w = *weight;
        AEPPT_UNROLL(32)
        for (int r = 0; r < kRows; ++r) sum[r] = fused(input[r][i], w, sum[r]);
      }
      if (column >= width) return;
      AEPPT_UNROLL(32)
      for (int r = 0; r < kRows; ++r) {
        if (first + r >= count) break;
        T* const target = y(list[first + r]) + column;
        if constexpr (after == After::kRelu) *target = sum[r] > 0 ? sum[r] : T(0);
        else if constexpr (after == After::kMask) *target = *target > 0 ? sum[r] : T(0);
        else *target = sum[r];
      }
    });
  }

  AEPPT_DEVICE static float fused(float a, float b, float c) { return fmaf(a, b, c); }
  AEPPT_DEVICE static double fused(double a, double b, double c) { return fma(a, b, c); }

  const Search<T>& s_;
  Block& block_;
  const TileLayout<T> layout_;
  char* const memory_;
};

}  // namespace aeppt::AEPPT_VARIANT
