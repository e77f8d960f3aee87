// The whole perturbation search of a tile of rows, its state in cache from the first look at a row
// to its answer. Included once per instruction set; AEPPT_VARIANT names the namespace, so that no
// two variants share a function.
//
// A tile has a fixed number of slots. Each round evaluates the substitute at every slot's point,
// all slots in one matrix product; then each row decides alone what it wants next (a gradient step,
// a bisection, nothing) and a finished row's slot goes to the next waiting row. All arithmetic of a
// row is independent of its neighbours, so its answer is bit-identical alone and in any batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "aeppt/row_search.h"
#include "aeppt/search.h"
#include "arena.h"
#include "multiply.h"
#include "order.h"
#include "row_queue.h"
#ifdef AEPPT_TILES
#include "tiles.h"
#endif

namespace aeppt::AEPPT_VARIANT {

#ifdef AEPPT_TILES
constexpr int64_t kMostSlots = 2 * kTileRows;
#else
constexpr int64_t kTileRows = 1;  // rows come singly
constexpr int64_t kMostSlots = 36;
#endif
constexpr int64_t kTileBytes = 1 << 20;  // of points; long rows get fewer slots

inline int64_t slots_for(int64_t row_bytes, int64_t rows) {
  int64_t slots = kTileBytes / row_bytes;
  slots = slots < 12 ? 12 : slots > kMostSlots ? kMostSlots : slots;
  return slots < rows ? slots : rows;
}

template <typename T>
class TileSearch {
 public:
  TileSearch(const Search<T>& search, int64_t slots)
      : s_(search),
        o_(search.options),
        coarse_(search.layers[0].forward_pairs != nullptr),
        row_(search, SimdLanes(), coarse_),
        k_(search.classes),
        hidden_width_(hidden_width(search.layers, search.layer_count)),
        slot_(slots),
        asked_(slots),
        from_(slots),
        to_(slots),
        pairs_((slots + kTileRows - 1) / kTileRows * kTileRows) {
    lay_out();
    arena_.allocate();
    lay_out();
    order_ = Order<T>(static_cast<int32_t>(k_), keys_);
    for (Slot& slot : slot_) live_.push_back(&slot);
#ifdef AEPPT_TILES
    if (coarse_) tiles_.emplace();
#endif
  }

  // Takes rows until none are left.
  void run(RowQueue& queue) {
    const int64_t slots = live_.size();
    int64_t live = 0;
    while (!queue.stopped()) {
      queue.look_for_signals();
      while (live < slots) {
        const int64_t row = queue.take();
        if (row >= s_.rows) break;
        Slot& slot = *live_[live];
        slot.has_order = slot.ordered = slot.ranked = false;
        slot.best_lies = Slot::kByClass;
        if (row_.load(slot, row)) ++live;
      }
      if (live == 0) return;
      evaluate(live);
      int64_t asking = 0;
      for (int64_t i = 0; i < live;) {
        Slot& slot = *live_[i];
        switch (row_.decide(slot)) {
          case Next::kGradient:
            asked_[asking++] = &slot;
            [[fallthrough]];
          case Next::kEvaluate:
            slot.ordered = slot.phase == Phase::kStep;  // elsewhere it asks for a new point
            ++i;
            break;
          case Next::kNothing:
            row_.finish(slot);
            live_[i] = live_[--live];
            live_[live] = &slot;
        }
      }
      if (asking > 0) step(asking);
    }
  }

 private:
  using Key = typename Order<T>::Key;
  // On sorted features steps are taken on the sorted probabilities, and neither the point nor the
  // best is in the order of the classes until the steps are over.
  struct Slot : Row<T> {
    T *features, *hidden;
    int32_t *order, *best_order;
    bool has_order;  // that of an earlier point
    bool ordered;    // `order` and `features` are those of the point
    bool ranked;     // the point is nowhere else
    enum { kByClass, kAtPoint, kSorted } best_lies;

    template <typename Lanes>
    void keep(Lanes lanes, Index k) {
      if (ranked) best_lies = kAtPoint;
      else Row<T>::keep(lanes, k);
    }
    void arrange(Index k) {
      ranked = false;
      if (best_lies == kByClass) return;
      const bool at_point = best_lies == kAtPoint;
      const T* const values = at_point ? features : this->best;
      const int32_t* const classes = at_point ? order : best_order;
      for (Index r = 0; r < k; ++r) this->point[classes[r]] = values[r];
      std::swap(this->point, this->best);
      best_lies = kByClass;
    }
  };

  void lay_out() {
    const int64_t width = padded(std::max(k_, s_.layers[0].in));  // of classes or of inputs
    keys_ = arena_.take<Key>(Order<T>::scratch_keys(k_));
    for (Slot& slot : slot_) {
      for (T** row : {&slot.start, &slot.point, &slot.best, &slot.end, &slot.features}) {
        *row = arena_.take<T>(width);
      }
      slot.hidden = arena_.take<T>(hidden_width_);
      for (int32_t** order : {&slot.order, &slot.best_order}) {
        *order = arena_.take<int32_t>(k_ + Order<T>::kSlack);
      }
    }
    if (!coarse_) return;
    int64_t widest = width;
    for (int32_t l = 0; l + 1 < s_.layer_count; ++l) {
      widest = std::max(widest, padded(s_.layers[l].out));
    }
    pairs_stride_ = widest / 2 + kPairsApart;
    // Pieces of whole cache lines lie end to end. Tiles are read whole, also where rows are
    // missing.
    for (Pair*& row : pairs_) row = arena_.take<Pair>(pairs_stride_);
  }

  // The substitute's logit at the point of each live slot.
  void evaluate(int64_t live) {
    for (int64_t i = 0; i < live; ++i) {
      Slot& slot = *live_[i];
      if (o_.features == Features::kRaw) continue;
      if (o_.features == Features::kTop3) {
        order_top3(slot.point, static_cast<int32_t>(k_), slot.order, slot.features);
      } else if (!slot.ordered) {
        if (slot.has_order) order_.sort_again(slot.point, slot.order, slot.features);
        else order_.sort(slot.point, slot.order, slot.features);
        if (o_.features == Features::kSortedRaw) std::copy_n(slot.point, k_, slot.features + k_);
      }
      slot.has_order = true;
    }
    forward(live, true);
    if (coarse_) forward(live, false);
  }

  // The same for those of them whose score is to be exact, or for the others.
  void forward(int64_t live, bool exact) {
    int64_t count = 0;
    for (int64_t i = 0; i < live; ++i) {
      Slot& slot = *live_[i];
      if (slot.exact != exact) continue;
      from_[count] = o_.features == Features::kRaw ? slot.point : slot.features;
      to_[count] = slot.hidden;
      asked_[count++] = &slot;
    }
    if (count == 0) return;
    for (int32_t l = 0; l + 1 < s_.layer_count; ++l) {
      const Layer<T>& layer = s_.layers[l];
      multiply<After::kRelu>(count, exact ? nullptr : layer.forward_pairs, layer.forward, layer.in,
                             layer.out, layer.bias);
      for (int64_t i = 0; i < count; ++i) from_[i] = to_[i], to_[i] += padded(layer.out);
    }
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    for (int64_t i = 0; i < count; ++i) {
      const T* const x = from_[i];
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < last.in; ++j) sum += x[j] * last.forward[j];
      asked_[i]->score = sum + last.bias[0];
    }
  }

  // to[r] = bias + from[r] * weights, in bf16 where there are pairs.
  template <After after>
  void multiply(int64_t rows, [[maybe_unused]] const Pair* pairs, const T* panels, int64_t depth,
                int64_t width, const T* bias) {
#ifdef AEPPT_BF16
    if constexpr (std::is_same_v<T, float>) {
      if (pairs != nullptr) {
        for (int64_t i = 0; i < rows; ++i) make_pairs(from_[i], depth, pairs_[i]);
        const int64_t panel_depth = padded(depth) / 2;
#ifdef AEPPT_TILES
        tiles_->template multiply<after>(pairs_[0], pairs_stride_, rows, pairs, panel_depth, width,
                                         bias, to_.data());
#else
        Product<Pairs, after>::run(pairs_.data(), rows, pairs, panel_depth, (depth + 1) / 2, width,
                                   bias, to_.data());
#endif
        return;
      }
    }
#endif
    Product<Full<T>, after>::run(from_.data(), rows, panels, depth, depth, width, bias, to_.data());
  }

  // Moves the point of each asking slot one step against its side's gradient. Gradients overwrite
  // the activations, which are not needed again. On sorted features the whole step is taken on the
  // sorted probabilities, so that nothing is gathered, and what moved one way stays sorted.
  void step(int64_t asking) {
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    for (int64_t i = 0; i < asking; ++i) {
      Slot& slot = *asked_[i];
      if (s_.layer_count == 1) {
        for (int64_t j = 0; j < last.in; ++j) slot.end[j] = last.forward[j];
        continue;
      }
      T* const h = slot.hidden + hidden_width_ - padded(last.in);
      const T* const weight = last.forward;
#pragma omp simd
      for (int64_t j = 0; j < last.in; ++j) {
        const T passed = weight[j];  // read in any case, or the loop would branch
        h[j] = h[j] > 0 ? passed : T(0);
      }
      from_[i] = h;
    }
    for (int32_t l = s_.layer_count - 2; l >= 0; --l) {
      const Layer<T>& layer = s_.layers[l];
      for (int64_t i = 0; i < asking; ++i) {
        to_[i] = l > 0 ? const_cast<T*>(from_[i]) - padded(layer.in) : asked_[i]->end;
      }
      if (l > 0) {
        multiply<After::kMask>(asking, layer.backward_pairs, layer.backward, layer.out, layer.in,
                               nullptr);
      } else {
        multiply<After::kNothing>(asking, layer.backward_pairs, layer.backward, layer.out, layer.in,
                                  nullptr);
      }
      for (int64_t i = 0; i < asking; ++i) from_[i] = to_[i];
    }
    for (int64_t i = 0; i < asking; ++i) {
      Slot& slot = *asked_[i];
      if (o_.features == Features::kSorted) {
        step_sorted(slot);
      } else {
        if (o_.features == Features::kTop3) scatter_top3(slot);
        if (o_.features == Features::kSortedRaw) add_sorted(slot);
        row_.step(slot, slot.point, slot.point, slot.end, slot.label);
        slot.ordered = false;
      }
    }
  }

  // A best point stays where it is, and the next one takes the place of the one before it.
  void step_sorted(Slot& slot) {
    Index label = 0;  // its place; the first, but for rounding
    while (label + 1 < k_ && slot.order[label] != slot.label) ++label;
    const T* const from = slot.features;
    const int32_t* const order = slot.order;
    if (slot.best_lies == Slot::kAtPoint) {
      std::swap(slot.features, slot.best);
      std::swap(slot.order, slot.best_order);
      slot.best_lies = Slot::kSorted;
    }
    row_.step(slot, from, slot.features, slot.end, label);
    if (o_.norm == Norm::kLinf) order_.merge(slot.features, slot.end, order, slot.order);
    else order_.sort_moved(slot.features, order, slot.order);
    slot.ordered = slot.ranked = true;
  }

  void scatter_top3(Slot& slot) const {
    const int64_t width = s_.layers[0].in;
    T top[3];
    for (int64_t r = 0; r < width; ++r) top[r] = slot.end[r];
    for (int64_t j = 0; j < k_; ++j) slot.end[j] = 0;
    for (int64_t r = 0; r < width; ++r) slot.end[slot.order[r]] = top[r];
  }

  // The gradient with respect to a class is that to its place and that to its entry as it stands.
  void add_sorted(Slot& slot) const {
    T *const sorted = slot.end, *const raw = sorted + k_;
    for (int64_t r = 0; r < k_; ++r) raw[slot.order[r]] += sorted[r];
    for (int64_t j = 0; j < k_; ++j) sorted[j] = raw[j], raw[j] = 0;
  }

  static constexpr int64_t kPairsApart = 16;  // rows at a power of two would share cache sets

  const Search<T>& s_;
  const Options& o_;
  const bool coarse_;  // gradient steps are made in bf16
  const RowSearch<T, SimdLanes> row_;
  const int64_t k_, hidden_width_;
  Arena arena_;
  Key* keys_;
  Order<T> order_;
  std::vector<Slot> slot_;
  std::vector<Slot*> live_, asked_;
  std::vector<const T*> from_;
  std::vector<T*> to_;
  std::vector<Pair*> pairs_;  // a product's inputs
  int64_t pairs_stride_ = 0;
#ifdef AEPPT_TILES
  std::optional<Tiles> tiles_;  // the unit is switched on where it is needed
#endif
};

template <typename T>
void search_rows(const Search<T>& search, int64_t workers, RowQueue& queue) {
  const int64_t row_bytes = padded(search.classes) * sizeof(T);
  const int64_t share = (search.rows + workers - 1) / workers;
  TileSearch<T>(search, slots_for(row_bytes, share)).run(queue);
}

}  // namespace aeppt::AEPPT_VARIANT
