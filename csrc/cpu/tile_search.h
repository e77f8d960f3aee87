// The whole perturbation search of a tile of rows, its state in cache from the first look at a row
// to its answer. Included once per instruction set; AEPPT_VARIANT names the namespace, so that no
// two variants share a function.
//
// A tile has a fixed number of slots. Each round evaluates the substitute at every slot's point,
// all slots in one matrix product; then each row decides alone what it wants next (a gradient step,
// a bisection, nothing) and a finished row's slot goes to the next waiting row. All arithmetic of a
// row is independent of its neighbours, so its answer is bit-identical alone and in any batch.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <type_traits>

#include "aeppt/retraction.h"
#include "aeppt/search.h"
#include "exponential.h"
#include "multiply.h"
#include "order.h"

namespace aeppt::AEPPT_VARIANT {

constexpr int64_t kMostSlots = 48;
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
        k_(search.classes),
        width_(padded(search.classes)),
        slots_(slots),
        hidden_width_(hidden_width(search)),
        arena_(bytes(search, slots)),
        order_(static_cast<int32_t>(k_), arena_.template take<Key>(Order<T>::scratch_keys(k_))) {
    slot_ = arena_.template take<Slot>(slots);
    live_ = arena_.template take<Slot*>(slots);
    asking_ = arena_.template take<Slot*>(slots);
    from_ = arena_.template take<const T*>(slots);
    to_ = arena_.template take<T*>(slots);
    inside_ = arena_.template take<T>(width_);
    for (int64_t i = 0; i < slots; ++i) {
      Slot& slot = slot_[i];
      for (T** row : {&slot.start, &slot.point, &slot.best, &slot.end, &slot.features}) {
        *row = arena_.template take<T>(width_);
      }
      slot.hidden = arena_.template take<T>(hidden_width_);
      slot.order = arena_.template take<int32_t>(k_ + Order<T>::kSlack);
    }
  }

  // Takes rows from the shared counter until none are left.
  void run(std::atomic<int64_t>& next_row) {
    int64_t live = 0;
    for (int64_t i = 0; i < slots_; ++i) live_[i] = &slot_[i];
    for (;;) {
      while (live < slots_) {
        const int64_t row = next_row.fetch_add(1, std::memory_order_relaxed);
        if (row >= s_.rows) break;
        if (load(*live_[live], row)) ++live;
      }
      if (live == 0) return;
      evaluate(live);
      int64_t asking = 0;
      for (int64_t i = 0; i < live;) {
        Slot& slot = *live_[i];
        switch (decide(slot)) {
          case Next::kGradient:
            asking_[asking++] = &slot;
            [[fallthrough]];
          case Next::kEvaluate:
            ++i;
            break;
          case Next::kNothing:
            finish(slot);
            live_[i] = live_[--live];
            live_[live] = &slot;
        }
      }
      if (asking > 0) step(asking);
    }
  }

 private:
  using Key = typename Order<T>::Key;
  enum class Phase { kStart, kStep, kRefine, kBudget };
  enum class Next { kGradient, kEvaluate, kNothing };

  struct Slot {
    T *start, *point, *best, *features, *hidden;
    T* end;  // of the segment of a bisection; until then the gradient
    int32_t* order;
    int64_t row, label;
    Phase phase;
    int32_t round, steps;
    bool selected, met, over_budget;
    bool has_order;  // that of an earlier point
    bool ordered;    // `order` and `features` are those of the point
    T side, score, score_before, score_after, best_goal;
    double low, high;
  };

  static int64_t hidden_width(const Search<T>& search) {
    int64_t width = 0;
    for (int32_t l = 0; l + 1 < search.layer_count; ++l) width += padded(search.layers[l].out);
    return width;
  }

  // What the constructor takes from the arena.
  static size_t bytes(const Search<T>& search, int64_t slots) {
    const size_t width = padded(search.classes), k = search.classes;
    const size_t hidden = hidden_width(search);
    const auto piece = [](size_t count, size_t size) { return Arena::size_of(count * size); };
    return piece(slots, sizeof(Slot)) + 4 * piece(slots, sizeof(void*)) + piece(width, sizeof(T)) +
           piece(Order<T>::scratch_keys(k), sizeof(Key)) +
           slots * (5 * piece(width, sizeof(T)) + piece(hidden, sizeof(T)) +
                    piece(k + Order<T>::kSlack, 4));
  }

  // Copies a row in; false where it is invalid and already answered.
  bool load(Slot& slot, int64_t row) {
    const T* const given = s_.probs + row * s_.row_stride;
    double total = 0;
    bool valid = true;
    int64_t label = 0;
    for (int64_t j = 0; j < k_; ++j) {
      const T value = given[j * s_.column_stride];
      valid &= value >= 0 && value < std::numeric_limits<T>::infinity();
      total += value;
      slot.start[j] = value;
      if (value > slot.start[label]) label = j;
    }
    slot.row = row;
    slot.label = label;
    if (!(valid && std::fabs(total - 1) <= kSumTolerance)) {
      const T nan = std::numeric_limits<T>::quiet_NaN();
      copy(slot.start, s_.out + row * k_);
      answer(row, Status::kInvalid, 0, nan, nan, T(0));
      return false;
    }
    if (std::fabs(total - 1) > kExactSum) retract(slot.start, k_, label, o_.tie_gap);
    copy(slot.start, slot.point);
    copy(slot.start, slot.best);
    slot.phase = Phase::kStart;
    slot.round = slot.steps = 0;
    slot.met = slot.over_budget = slot.has_order = slot.ordered = false;
    return true;
  }

  void copy(const T* from, T* to) const {
#pragma omp simd
    for (int64_t j = 0; j < k_; ++j) to[j] = from[j];
  }

  void answer(int64_t row, Status status, int32_t steps, T before, T after, T l1) const {
    s_.status[row] = static_cast<int8_t>(status);
    s_.steps[row] = steps;
    s_.score_before[row] = before;
    s_.score_after[row] = after;
    s_.l1[row] = l1;
  }

  // ---- the substitute ----

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
        move(slot.features, slot.end, slot.side, place);
        retract(slot.features, k_, place, o_.tie_gap);
        if (o_.norm == Norm::kLinf) {
          order_.merge(slot.features, slot.end, slot.order, slot.point);
        } else {
          order_.sort_moved(slot.features, slot.order, slot.point);
        }
        slot.ordered = true;
      } else {
        if (o_.features == Features::kTop3) scatter_top3(slot);
        move(slot.point, slot.end, slot.side, slot.label);
        retract(slot.point, k_, slot.label, o_.tie_gap);
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

  // Adds to p the step along d, which holds the gradient before and the step taken after.
  void move(T* p, T* d, T side, int64_t label) const {
    const T step_size = static_cast<T>(o_.step_size);
    double mean = 0;
    if (o_.space == Space::kProb) {
#pragma omp simd reduction(+ : mean)
      for (int64_t j = 0; j < k_; ++j) {
        d[j] *= -side;
        mean += d[j];
      }
      const T shift = static_cast<T>(mean / k_);
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) d[j] -= shift;
    } else {
      const T origin = -side * d[label], lowest = static_cast<T>(kLogFloor);
#pragma omp simd reduction(+ : mean)
      for (int64_t j = 0; j < k_; ++j) {
        p[j] = p[j] > lowest ? p[j] : lowest;
        d[j] = -side * d[j] - origin;
        mean += p[j] * d[j];
      }
      const T shift = static_cast<T>(mean);
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) d[j] = p[j] * (d[j] - shift);
    }

    if (o_.norm == Norm::kLinf) {
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) {
        d[j] = d[j] > 0 ? step_size : d[j] < 0 ? -step_size : T(0);
      }
    } else {
      double squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < k_; ++j) squares += static_cast<double>(d[j]) * d[j];
      const T norm = static_cast<T>(std::sqrt(squares));
      // An overflowing gradient has no direction.
      const bool usable = norm > 0 && norm < std::numeric_limits<T>::infinity();
      const T scale = step_size / norm;
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) d[j] = usable ? d[j] * scale : T(0);
    }

    if (o_.space == Space::kProb) {
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) p[j] += d[j];
    } else {
      T highest = -std::numeric_limits<T>::infinity();  // against overflow
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < k_; ++j) highest = d[j] > highest ? d[j] : highest;
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) p[j] *= exponential(d[j] - highest);
      normalize(p);
    }
  }

  void normalize(T* p) const {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < k_; ++j) sum += p[j];
    const T total = static_cast<T>(sum);
#pragma omp simd
    for (int64_t j = 0; j < k_; ++j) p[j] /= total;
  }

  // ---- the decisions of one row ----

  bool reached(const Slot& slot) const {
    return slot.side * slot.score <= -static_cast<T>(o_.margin);
  }

  // Reads the score at the slot's point, and says what the row wants next. With constant_time a row
  // that is done goes on with work whose outcome is not kept.
  Next decide(Slot& slot) {
    switch (slot.phase) {
      case Phase::kStart: {
        const bool member = o_.direction == Direction::kMember;
        slot.side = member || slot.score > 0 ? T(1) : T(-1);
        slot.selected = !member || slot.score > -static_cast<T>(o_.margin);
        slot.score_before = slot.score_after = slot.score;
        slot.best_goal = slot.side * slot.score;
        slot.met = slot.selected && reached(slot);
        if (!slot.selected && !o_.constant_time) return Next::kNothing;
        slot.phase = Phase::kStep;
        break;
      }
      case Phase::kStep:
        ++slot.round;
        if (!slot.selected || slot.met) break;
        ++slot.steps;
        if (slot.side * slot.score < slot.best_goal) {
          copy(slot.point, slot.best);
          slot.best_goal = slot.side * slot.score;
          slot.score_after = slot.score;
          slot.met = reached(slot);
        }
        break;
      case Phase::kRefine: {
        const double middle = (slot.low + slot.high) / 2;
        (reached(slot) ? slot.high : slot.low) = middle;
        if (slot.met && reached(slot)) {
          copy(slot.point, slot.best);
          slot.score_after = slot.score;
        }
        ++slot.round;
        return bisect(slot);
      }
      case Phase::kBudget:
        if (slot.over_budget) {
          copy(slot.point, slot.best);
          slot.score_after = slot.score;
          slot.met = reached(slot);
        }
        return Next::kNothing;
    }
    if (slot.round < o_.max_steps && (!slot.met || o_.constant_time)) return Next::kGradient;
    if (!slot.met && !o_.constant_time) return fit_budget(slot);
    set_segment(slot);
    slot.phase = Phase::kRefine;
    slot.round = 0;
    return bisect(slot);
  }

  Next bisect(Slot& slot) {
    if (slot.round == o_.refine_steps) return fit_budget(slot);
    interpolate(slot, (slot.low + slot.high) / 2, slot.point);
    return Next::kEvaluate;
  }

  // The segment from start to best; in logit space `end` holds the logarithm of their ratio.
  void set_segment(Slot& slot) {
    slot.low = 0, slot.high = 1;
    copy(slot.best, slot.end);
    if (o_.space == Space::kLogit) {
      const T lowest = static_cast<T>(kLogFloor);
      const auto raised = [lowest](T value) { return value > lowest ? value : lowest; };
      for (int64_t j = 0; j < k_; ++j) {
        slot.end[j] = std::log(raised(slot.end[j]) / raised(slot.start[j]));
      }
    }
  }

  void interpolate(const Slot& slot, double at, T* point) const {
    const T t = static_cast<T>(at);
    const T *const start = slot.start, *const end = slot.end;
    if (o_.space == Space::kProb) {
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) point[j] = start[j] + t * (end[j] - start[j]);
    } else {
      const T lowest = static_cast<T>(kLogFloor);
#pragma omp simd
      for (int64_t j = 0; j < k_; ++j) {
        point[j] = (start[j] > lowest ? start[j] : lowest) * exponential(t * end[j]);
      }
      normalize(point);
    }
    retract(point, k_, slot.label, o_.tie_gap);
  }

  double distance(const T* left, const T* right) const {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < k_; ++j) sum += std::fabs(left[j] - right[j]);
    return sum;
  }

  // Where the best point costs more than max_l1: the furthest point of its segment inside it.
  Next fit_budget(Slot& slot) {
    if (!(o_.max_l1 < std::numeric_limits<double>::infinity())) return Next::kNothing;
    slot.over_budget = slot.selected && distance(slot.best, slot.start) > o_.max_l1;
    if (!slot.over_budget && !o_.constant_time) return Next::kNothing;
    set_segment(slot);
    copy(slot.start, inside_);
    for (int32_t i = 0; i < kBudgetSteps; ++i) {
      const double middle = (slot.low + slot.high) / 2;
      interpolate(slot, middle, slot.point);
      const bool fits = distance(slot.point, slot.start) <= o_.max_l1;
      if (fits) copy(slot.point, inside_);
      (fits ? slot.low : slot.high) = middle;
    }
    copy(inside_, slot.point);
    slot.phase = Phase::kBudget;
    return Next::kEvaluate;
  }

  void finish(const Slot& slot) const {
    const Status status = !slot.selected     ? Status::kUnchanged
                          : slot.met         ? Status::kSuccess
                          : slot.over_budget ? Status::kBudget
                                             : Status::kExhausted;
    copy(slot.best, s_.out + slot.row * k_);
    answer(slot.row, status, slot.steps, slot.score_before, slot.score_after,
           static_cast<T>(distance(slot.best, slot.start)));
  }

  const Search<T>& s_;
  const Options& o_;
  const int64_t k_, width_, slots_, hidden_width_;
  Arena arena_;
  Order<T> order_;
  Slot* slot_;
  Slot **live_, **asking_;
  const T** from_;
  T** to_;
  T* inside_;
};

template <typename T>
void search_rows(const Search<T>& search, int64_t workers, std::atomic<int64_t>& next_row) {
  const int64_t row_bytes = padded(search.classes) * sizeof(T);
  const int64_t share = (search.rows + workers - 1) / workers;
  TileSearch<T>(search, slots_for(row_bytes, share)).run(next_row);
}

}  // namespace aeppt::AEPPT_VARIANT
