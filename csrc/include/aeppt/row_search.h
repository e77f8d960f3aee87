// The search of one row, for every engine: what a row decides after each score, and the arithmetic
// on its probabilities. The engine brings the substitute's scores and gradients, the order of the
// classes, and the lanes that share a row's work.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "aeppt/exponential.h"
#include "aeppt/lanes.h"
#include "aeppt/retraction.h"
#include "aeppt/search.h"

namespace aeppt::AEPPT_VARIANT {

enum class Phase { kStart, kStep, kLast, kRefine, kBudget };
enum class Next { kGradient, kEvaluate, kNothing };

// The state of one row; arrays are [classes].
template <typename T>
struct Row {
  T *start, *point, *best;
  T* end;  // of the segment of a bisection; until then the gradient
  int64_t row;
  Index label;
  Phase phase;
  int32_t round, steps;
  bool selected, met, over_budget;
  bool exact;  // the score at the point is, or is to be, in full precision
  T side, score, score_before, score_after, best_goal;
  int32_t low, high, at;  // of the segment, in cells: its ends, and the row's point
  T low_goal, high_goal;  // how far the score is from the border at the ends

  // The point becomes the best; then, when the steps are over, the best is wanted in the order of
  // the classes. An engine that keeps both in another order until then hides these two.
  template <typename Lanes>
  AEPPT_DEVICE void keep(Lanes lanes, Index k) {
    const T* const from = point;
    T* const to = best;
    lanes.each_padded(k, [=](Index j) { to[j] = from[j]; });
  }
  AEPPT_DEVICE void arrange(Index) {}
};

template <typename T, typename Lanes>
class RowSearch {
 public:
  // `coarse`: the engine makes gradient steps in the precision that the options allow. A coarse
  // score guides; what is answered rests on exact ones.
  AEPPT_DEVICE RowSearch(const Search<T>& search, Lanes lanes, bool coarse = false)
      : s_(search),
        o_(search.options),
        k_(static_cast<Index>(search.classes)),
        lanes_(lanes),
        coarse_(coarse && !search.options.constant_time),
        usual_(static_cast<T>(o_.step_size), static_cast<T>(o_.step_size)) {}

  // Copies a row in; false where it is invalid and already answered.
  AEPPT_DEVICE bool load(Row<T>& r, int64_t row) const {
    const T* const given = s_.probs + row * s_.row_stride;
    const int64_t stride = s_.column_stride;
    T* const start = r.start;
    lanes_.each(k_, [=](Index j) { start[j] = given[j * stride]; });
    const Sums facts = lanes_.sums(
        k_, [=](Index j) { return static_cast<double>(start[j]); },
        [=](Index j) {
          return start[j] >= 0 && start[j] < std::numeric_limits<T>::infinity() ? 0.0 : 1.0;
        });
    r.row = row;
    if (facts.second > 0 || !(std::fabs(facts.first - 1) <= kSumTolerance)) {
      const T nan = std::numeric_limits<T>::quiet_NaN();
      copy_out(start, row);
      answer(row, Status::kInvalid, 0, nan, nan, T(0));
      return false;
    }
    const T highest = lanes_.max(k_, [=](Index j) { return start[j]; });
    r.label = lanes_.first(k_, [=](Index j) { return start[j] == highest; });
    if (std::fabs(facts.first - 1) > kExactSum) retract(lanes_, start, k_, r.label, o_.tie_gap);
    copy(start, r.point);
    copy(start, r.best);
    r.phase = Phase::kStart;
    r.round = r.steps = 0;
    r.met = r.over_budget = false;
    r.exact = true;
    return true;
  }

  // Reads the score at the row's point, and says what the row wants next. With constant_time a row
  // that is done goes on with work whose outcome is not kept.
  template <typename Slot>
  AEPPT_DEVICE Next decide(Slot& r) const {
    switch (r.phase) {
      case Phase::kStart: {
        const bool member = o_.direction == Direction::kMember;
        r.side = member || r.score > 0 ? T(1) : T(-1);
        r.selected = !member || r.score > -static_cast<T>(o_.margin);
        r.score_before = r.score_after = r.score;
        r.best_goal = r.side * r.score;
        r.met = r.selected && reached(r);
        if (!r.selected && !o_.constant_time) return Next::kNothing;
        r.phase = Phase::kStep;
        break;
      }
      case Phase::kStep:
        if (!r.exact && reached(r)) {
          r.exact = true;
          return Next::kEvaluate;
        }
        ++r.round;
        if (!r.selected || r.met) break;
        ++r.steps;
        if (r.side * r.score < r.best_goal) {
          r.keep(lanes_, k_);
          r.best_goal = r.side * r.score;
          r.score_after = r.score;
          r.met = reached(r);
        }
        break;
      case Phase::kLast:
        r.score_after = r.score;
        r.met = reached(r);
        break;
      case Phase::kRefine:
        if (is_open(r)) narrow(r);
        ++r.round;
        break;
      case Phase::kBudget:
        if (r.over_budget) {
          copy(r.point, r.best);
          r.score_after = r.score;
          r.met = reached(r);
        }
        return Next::kNothing;
    }
    if (r.phase != Phase::kRefine) {
      if (r.round < o_.max_steps && (!r.met || o_.constant_time)) {
        r.exact = !coarse_;
        return Next::kGradient;
      }
      r.arrange(k_);
      r.exact = true;
      if (coarse_ && !r.met && r.phase != Phase::kLast) {
        copy(r.best, r.point);
        r.phase = Phase::kLast;
        return Next::kEvaluate;
      }
      r.round = 0;
      if (r.met || o_.constant_time) {
        set_segment(r);
        r.low = 0, r.high = 1 << cuts();
        r.low_goal = to_border(r, r.score_before);
        r.high_goal = to_border(r, r.score_after);
        r.phase = Phase::kRefine;
      }
    }
    if (r.phase == Phase::kRefine) {
      if (o_.constant_time ? r.round < cuts() + kSpareCuts : is_open(r)) {
        r.at = next_cut(r);
        interpolate(r, std::ldexp(static_cast<double>(r.at), -cuts()));
        return Next::kEvaluate;
      }
    }
    return fit_budget(r);
  }

  // Makes of `from`, the row's point in some order, p, the point one step further along d, and
  // retracts; d holds the gradient before and the direction after, whose signs say which way the
  // entries went. `label` is where the label is.
  AEPPT_DEVICE void step(const Row<T>& r, const T* from, T* p, T* d, Index label) const {
    const bool logit = o_.space == Space::kLogit;
    const T side = r.side, origin = logit ? -side * lanes_.read(d + label) : T(0);
    const double mean = logit ? lanes_.sum(k_,
                                           [=](Index j) {
                                             constexpr T kLowest = static_cast<T>(kLogFloor);
                                             p[j] = from[j] > kLowest ? from[j] : kLowest;
                                             d[j] = -side * d[j] - origin;
                                             return p[j] * d[j];
                                           })
                              : lanes_.sum(k_, [=](Index j) {
                                  p[j] = from[j];
                                  return d[j] = -side * d[j];
                                }) / k_;
    const T shift = static_cast<T>(mean);
    // The direction, on the simplex.
    const auto centered = [=](Index j) { return logit ? p[j] * (d[j] - shift) : d[j] - shift; };
    const T distance = to_border(r, r.score);
    const double total = o_.norm == Norm::kLinf ? step_linf(p, d, centered, distance)
                                                : step_l2(p, d, centered, distance);
    settle(p, total, label);
  }

  AEPPT_DEVICE void finish(const Row<T>& r) const {
    const Status status = !r.selected     ? Status::kUnchanged
                          : r.met         ? Status::kSuccess
                          : r.over_budget ? Status::kBudget
                                          : Status::kExhausted;
    copy_out(r.best, r.row);
    answer(r.row, status, r.steps, r.score_before, r.score_after,
           static_cast<T>(distance(r.best, r.start)));
  }

 private:
  AEPPT_DEVICE void copy(const T* from, T* to) const {
    lanes_.each_padded(k_, [=](Index j) { to[j] = from[j]; });
  }

  AEPPT_DEVICE void copy_out(const T* from, int64_t row) const {
    T* const out = s_.out + row * k_;
    if (from == out) return;  // an engine may keep the best point there
    lanes_.each(k_, [=](Index j) { out[j] = from[j]; });
  }

  AEPPT_DEVICE void answer(int64_t row, Status status, int32_t steps, T before, T after,
                           T l1) const {
    const Search<T>& s = s_;
    lanes_.each(1, [&](Index) {
      s.status[row] = static_cast<int8_t>(status);
      s.steps[row] = steps;
      s.score_before[row] = before;
      s.score_after[row] = after;
      s.l1[row] = l1;
    });
  }

  // How far a score is from the border; the goal is met where this is not positive.
  AEPPT_DEVICE T to_border(const Row<T>& r, T score) const {
    return r.side * score + static_cast<T>(o_.margin);
  }
  AEPPT_DEVICE bool reached(const Row<T>& r) const { return to_border(r, r.score) <= 0; }

  // ---- refinement: the border is between two ends of a segment of 2^cuts() cells ----

  AEPPT_DEVICE int32_t cuts() const {
    return o_.refine_steps < kFinestCut ? o_.refine_steps : kFinestCut;
  }
  AEPPT_DEVICE bool is_open(const Row<T>& r) const { return r.low_goal > 0 && r.high - r.low > 1; }

  // Moves one of the ends to the row's point.
  AEPPT_DEVICE void narrow(Row<T>& r) const {
    if (!reached(r)) {
      r.low = r.at;
      r.low_goal = to_border(r, r.score);
      return;
    }
    r.high = r.at;
    r.high_goal = to_border(r, r.score);
    if (r.met) {
      copy(r.point, r.best);
      r.score_after = r.score;
    }
  }

  // Where to look next, by the ITP method: where the line through both ends crosses the border, a
  // little towards the middle, and so that the evaluations that are left suffice in any case.
  AEPPT_DEVICE int32_t next_cut(const Row<T>& r) const {
    const double low = r.low, high = r.high, half = (low + high) / 2;
    const double high_goal = r.high_goal, low_goal = r.low_goal;
    double cut = high - (high - low) * (high_goal / (high_goal - low_goal));
    const double shift = std::ldexp(kCutShift * (high - low) * (high - low), -cuts());
    cut = std::fabs(half - cut) <= shift ? half : half > cut ? cut + shift : cut - shift;
    cut = std::nearbyint(cut);
    const double room = std::ldexp(1.0, cuts() + kSpareCuts - 1 - r.round);
    const double least = low + 1 > high - room ? low + 1 : high - room;
    const double most = high - 1 < low + room ? high - 1 : low + room;
    return cut > least ? cut < most ? cut : most : least;  // least where it is no number
  }

  // The length of a step in the direction d, whose dual norm is given: to first order the score
  // falls by their product.
  AEPPT_DEVICE T step_length(T distance, double dual_norm) const {
    double length = o_.step_size;
    const double away = kOvershoot * distance / dual_norm;
    if (away > length) length = away < kLongestStep * length ? away : kLongestStep * length;
    return static_cast<T>(length);
  }

  // What a step in logit space multiplies by: relative to the greatest change, against overflow.
  struct Factors {
    T up, flat, down;
    AEPPT_DEVICE Factors(T length, T highest)
        : up(exponential(length - highest)),
          flat(exponential(-highest)),
          down(exponential(-length - highest)) {}
  };

  // Each leaves in d what `direction` makes of it and changes p by the step along that; what p sums
  // to then, where the step is in logit space.

  template <typename F>
  AEPPT_DEVICE double step_linf(T* p, T* d, F direction, T distance) const {
    const bool rises = lanes_.last(k_, [=](Index j) { return (d[j] = direction(j)) > 0; }) > 0;
    const T length =
        o_.method == Method::kBoundary
            ? step_length(distance, lanes_.sum(k_, [=](Index j) { return std::fabs(d[j]); }))
            : static_cast<T>(o_.step_size);
    const auto change = [=](Index j) { return d[j] > 0 ? length : d[j] < 0 ? -length : T(0); };
    if (o_.space == Space::kProb) {
      lanes_.each_padded(k_, [=](Index j) { p[j] += change(j); });
      return 1;
    }
    const bool usual = rises && o_.method == Method::kStep;
    const Factors by = usual ? usual_ : Factors(length, rises ? length : lanes_.max(k_, change));
    return lanes_.sum(k_, [=](Index j) {
      return p[j] *= d[j] > 0 ? by.up : d[j] < 0 ? by.down : by.flat;
    });
  }

  template <typename F>
  AEPPT_DEVICE double step_l2(T* p, T* d, F direction, T distance) const {
    const T norm = static_cast<T>(std::sqrt(lanes_.sum(k_, [=](Index j) {
      d[j] = direction(j);
      return static_cast<double>(d[j]) * d[j];
    })));
    // An overflowing gradient has no direction.
    const bool usable = norm > 0 && norm < std::numeric_limits<T>::infinity();
    const bool boundary = o_.method == Method::kBoundary;
    const T scale = (boundary ? step_length(distance, norm) : static_cast<T>(o_.step_size)) / norm;
    lanes_.each_padded(k_, [=](Index j) { d[j] = usable ? d[j] * scale : T(0); });
    if (o_.space == Space::kProb) {
      lanes_.each_padded(k_, [=](Index j) { p[j] += d[j]; });
      return 1;
    }
    const T highest = lanes_.max(k_, [=](Index j) { return d[j]; });  // against overflow
    lanes_.each_padded(k_, [=](Index j) { p[j] *= exponential(d[j] - highest); });
    return lanes_.sum(k_, [=](Index j) { return p[j]; });
  }

  // Retracts p, which in logit space sums to `total` and is to sum to one.
  AEPPT_DEVICE void settle(T* p, double total, Index label) const {
    const bool logit = o_.space == Space::kLogit;
    retract(lanes_, p, k_, label, o_.tie_gap, logit ? static_cast<T>(1 / total) : T(1), logit);
  }

  // The segment from start to best; in logit space `end` holds the logarithm of their ratio.
  AEPPT_DEVICE void set_segment(Row<T>& r) const {
    copy(r.best, r.end);
    if (o_.space == Space::kLogit) {
      T* const end = r.end;
      const T *const start = r.start, lowest = static_cast<T>(kLogFloor);
      const auto raised = [lowest](T value) { return value > lowest ? value : lowest; };
      lanes_.each_padded(k_,
                         [=](Index j) { end[j] = logarithm(raised(end[j]) / raised(start[j])); });
    }
  }

  // Puts the row's point at `at` of the way along its segment.
  AEPPT_DEVICE void interpolate(const Row<T>& r, double at) const {
    const T t = static_cast<T>(at);
    const T *const start = r.start, *const end = r.end;
    T* const point = r.point;
    double total = 1;
    if (o_.space == Space::kProb) {
      lanes_.each_padded(k_, [=](Index j) { point[j] = start[j] + t * (end[j] - start[j]); });
    } else {
      const T lowest = static_cast<T>(kLogFloor);
      lanes_.each_padded(k_, [=](Index j) {
        point[j] = (start[j] > lowest ? start[j] : lowest) * exponential(t * end[j]);
      });
      total = lanes_.sum(k_, [=](Index j) { return point[j]; });
    }
    settle(point, total, r.label);
  }

  AEPPT_DEVICE double distance(const T* left, const T* right) const {
    return lanes_.sum(k_, [=](Index j) { return std::fabs(left[j] - right[j]); });
  }

  // Where the best point costs more than max_l1: the furthest point of its segment inside it.
  AEPPT_DEVICE Next fit_budget(Row<T>& r) const {
    if (!(o_.max_l1 < std::numeric_limits<double>::infinity())) return Next::kNothing;
    r.over_budget = r.selected && distance(r.best, r.start) > o_.max_l1;
    if (!r.over_budget && !o_.constant_time) return Next::kNothing;
    set_segment(r);
    double low = 0, high = 1;
    for (int32_t i = 0;; ++i) {
      const bool last = i == kBudgetSteps;
      const double at = last ? low : (low + high) / 2;
      interpolate(r, at);
      if (last) break;
      (distance(r.point, r.start) <= o_.max_l1 ? low : high) = at;
    }
    if (!(low > 0)) copy(r.start, r.point);
    r.phase = Phase::kBudget;
    return Next::kEvaluate;
  }

  const Search<T>& s_;
  const Options& o_;
  const Index k_;
  const Lanes lanes_;
  const bool coarse_;
  const Factors usual_;
};

}  // namespace aeppt::AEPPT_VARIANT
