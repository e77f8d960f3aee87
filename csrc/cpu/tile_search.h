// The whole perturbation search of a tile of rows, its state in cache from the first look at a row
// to its answer. Included once per instruction set; AEPPT_VARIANT names the namespace, so that no
// two variants share a function.
//
// A tile has a fixed number of slots. Each round evaluates the substitute at every slot's point,
// all slots in one matrix product; then each row decides alone what it wants next (a gradient step,
// a bisection, nothing) and a finished row's slot goes to the next waiting row. All arithmetic of a
// row is independent of its neighbours, so its answer is bit-identical alone and in any batch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <type_traits>

#include "aeppt/row_search.h"
#include "aeppt/search.h"
#include "multiply.h"
#include "order.h"
#include "row_queue.h"

namespace aeppt::AEPPT_VARIANT {

constexpr int64_t kMostSlots = 36;
constexpr int64_t kTileBytes = 1 << 20;  // of points; long rows get fewer slots

inline int64_t slots_for(int64_t row_bytes, int64_t rows) {
  int64_t slots = kTileBytes / row_bytes;
  slots = slots < 12 ? 12 : slots > kMostSlots ? kMostSlots : slots;
  return slots < rows ? slots : rows;
}

// One block of aligned memory, handed out in pieces.
class Arena {
 public:
  explicit Arena(size_t bytes)
      : memory_(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))),
        next_(memory_) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Arena() { std::free(memory_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  static size_t size_of(size_t bytes) { return (bytes + 63) / 64 * 64; }
  template <typename U>
  U* take(size_t count) {
    U* const piece = reinterpret_cast<U*>(next_);
    next_ += size_of(count * sizeof(U));
    return piece;
  }

 private:
  char *memory_, *next_;
};

template <typename T>
class TileSearch {
 public:
  TileSearch(const Search<T>& search, int64_t slots)
      : s_(search),
        o_(search.options),
        row_(search, SimdLanes()),
        k_(search.classes),
        width_(padded(search.classes)),
        slots_(slots),
        hidden_width_(hidden_width(search.layers, search.layer_count)),
        arena_(bytes(search, slots)),
        order_(static_cast<int32_t>(k_), arena_.template take<Key>(Order<T>::scratch_keys(k_))) {
    slot_ = arena_.template take<Slot>(slots);
    live_ = arena_.template take<Slot*>(slots);
    asking_ = arena_.template take<Slot*>(slots);
    from_ = arena_.template take<const T*>(slots);
    to_ = arena_.template take<T*>(slots);
    for (int64_t i = 0; i < slots; ++i) {
      Slot& slot = slot_[i];
      for (T** row : {&slot.start, &slot.point, &slot.best, &slot.end, &slot.features}) {
        *row = arena_.template take<T>(width_);
      }
      slot.hidden = arena_.template take<T>(hidden_width_);
      slot.order = arena_.template take<int32_t>(k_ + Order<T>::kSlack);
    }
  }

  // Takes rows until none are left.
  void run(RowQueue& queue) {
    int64_t live = 0;
    for (int64_t i = 0; i < slots_; ++i) live_[i] = &slot_[i];
    while (!queue.stopped()) {
      queue.look_for_signals();
      while (live < slots_) {
        const int64_t row = queue.take();
        if (row >= s_.rows) break;
        Slot& slot = *live_[live];
        slot.has_order = slot.ordered = false;
        if (row_.load(slot, row)) ++live;
      }
      if (live == 0) return;
      evaluate(live);
      int64_t asking = 0;
      for (int64_t i = 0; i < live;) {
        Slot& slot = *live_[i];
        switch (row_.decide(slot)) {
          case Next::kGradient:
            asking_[asking++] = &slot;
            [[fallthrough]];
          case Next::kEvaluate:
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
  struct Slot : Row<T> {
    T *features, *hidden;
    int32_t* order;
    bool has_order;  // that of an earlier point
    bool ordered;    // `order` and `features` are those of the point
  };

  // What the constructor takes from the arena.
  static size_t bytes(const Search<T>& search, int64_t slots) {
    const size_t width = padded(search.classes), k = search.classes;
    const size_t hidden = hidden_width(search.layers, search.layer_count);
    const auto piece = [](size_t count, size_t size) { return Arena::size_of(count * size); };
    return piece(slots, sizeof(Slot)) + 4 * piece(slots, sizeof(void*)) +
           piece(Order<T>::scratch_keys(k), sizeof(Key)) +
           slots * (5 * piece(width, sizeof(T)) + piece(hidden, sizeof(T)) +
                    piece(k + Order<T>::kSlack, 4));
  }

  // The substitute's logit at the point of each live slot.
  void evaluate(int64_t live) {
    for (int64_t i = 0; i < live; ++i) {
      Slot& slot = *live_[i];
      from_[i] = slot.features;
      to_[i] = slot.hidden;
      if (o_.features == Features::kRaw) {
        from_[i] = slot.point;
        continue;
      }
      if (o_.features == Features::kTop3) {
        order_top3(slot.point, static_cast<int32_t>(k_), slot.order, slot.features);
      } else if (!slot.ordered) {
        if (slot.has_order) order_.sort_again(slot.point, slot.order, slot.features);
        else order_.sort(slot.point, slot.order, slot.features);
      }
      slot.has_order = true;
      slot.ordered = false;
    }
    for (int32_t l = 0; l + 1 < s_.layer_count; ++l) {
      const Layer<T>& layer = s_.layers[l];
      Product<T, After::kRelu>::run(from_, live, layer.forward, layer.in, layer.out, layer.bias,
                                    to_);
      for (int64_t i = 0; i < live; ++i) from_[i] = to_[i], to_[i] += padded(layer.out);
    }
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    for (int64_t i = 0; i < live; ++i) {
      const T* const x = from_[i];
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < last.in; ++j) sum += x[j] * last.forward[j];
      live_[i]->score = sum + last.bias[0];
    }
  }

  // Moves the point of each asking slot one step against its side's gradient. Gradients overwrite
  // the activations, which are not needed again. On sorted features the whole step is taken on the
  // sorted probabilities, so that nothing is gathered, and what moved one way stays sorted.
  void step(int64_t asking) {
    const Layer<T>& last = s_.layers[s_.layer_count - 1];
    for (int64_t i = 0; i < asking; ++i) {
      Slot& slot = *asking_[i];
      if (s_.layer_count == 1) {
        for (int64_t j = 0; j < last.in; ++j) slot.end[j] = last.forward[j];
        continue;
      }
      T* const h = slot.hidden + hidden_width_ - padded(last.in);
#pragma omp simd
      for (int64_t j = 0; j < last.in; ++j) h[j] = h[j] > 0 ? last.forward[j] : T(0);
      from_[i] = h;
    }
    for (int32_t l = s_.layer_count - 2; l >= 0; --l) {
      const Layer<T>& layer = s_.layers[l];
      for (int64_t i = 0; i < asking; ++i) {
        to_[i] = l > 0 ? const_cast<T*>(from_[i]) - padded(layer.in) : asking_[i]->end;
      }
      if (l > 0) {
        Product<T, After::kMask>::run(from_, asking, layer.backward, layer.out, layer.in, nullptr,
                                      to_);
      } else {
        Product<T, After::kNothing>::run(from_, asking, layer.backward, layer.out, layer.in,
                                         nullptr, to_);
      }
      for (int64_t i = 0; i < asking; ++i) from_[i] = to_[i];
    }
    for (int64_t i = 0; i < asking; ++i) {
      Slot& slot = *asking_[i];
      if (o_.features == Features::kSorted) {
        int64_t place = 0;  // the label's; it is the first, but for rounding
        while (place + 1 < k_ && slot.order[place] != slot.label) ++place;
        row_.step(slot, slot.features, slot.end, place);
        if (o_.norm == Norm::kLinf) {
          order_.merge(slot.features, slot.end, slot.order, slot.point);
        } else {
          order_.sort_moved(slot.features, slot.order, slot.point);
        }
        slot.ordered = true;
      } else {
        if (o_.features == Features::kTop3) scatter_top3(slot);
        row_.step(slot, slot.point, slot.end, slot.label);
      }
    }
  }

  void scatter_top3(Slot& slot) const {
    const int64_t width = s_.layers[0].in;
    T top[3];
    for (int64_t r = 0; r < width; ++r) top[r] = slot.end[r];
    for (int64_t j = 0; j < k_; ++j) slot.end[j] = 0;
    for (int64_t r = 0; r < width; ++r) slot.end[slot.order[r]] = top[r];
  }

  const Search<T>& s_;
  const Options& o_;
  const RowSearch<T, SimdLanes> row_;
  const int64_t k_, width_, slots_, hidden_width_;
  Arena arena_;
  Order<T> order_;
  Slot* slot_;
  Slot **live_, **asking_;
  const T** from_;
  T** to_;
};

template <typename T>
void search_rows(const Search<T>& search, int64_t workers, RowQueue& queue) {
  const int64_t row_bytes = padded(search.classes) * sizeof(T);
  const int64_t share = (search.rows + workers - 1) / workers;
  TileSearch<T>(search, slots_for(row_bytes, share)).run(queue);
}

}  // namespace aeppt::AEPPT_VARIANT
