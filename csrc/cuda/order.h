// The order of a row's classes by descending probability, ties by ascending index, for lanes that
// share a row: every entry finds its own place by counting, with a binary search, the entries of
// another sorted list that stand before it.
#pragma once

#include <cstdint>

#include "aeppt/lanes.h"
#include "aeppt/search.h"

namespace aeppt::AEPPT_VARIANT {

// Entries in some order: the probability and the class of each.
template <typename T>
struct Entries {
  T* value;
  int32_t* index;

  // Whether entry a stands before entry b of another list.
  AEPPT_DEVICE bool before(Index a, T value_b, int32_t index_b) const {
    return value[a] > value_b || (value[a] == value_b && index[a] < index_b);
  }
  // How many of the sorted entries [first, last) stand before the given one.
  AEPPT_DEVICE Index rank(Index first, Index last, T value_b, int32_t index_b) const {
    Index low = first;
    while (low < last) {
      const Index middle = (low + last) / 2;
      if (before(middle, value_b, index_b)) low = middle + 1;
      else last = middle;
    }
    return low - first;
  }
};

template <typename T, typename Lanes>
class RankOrder {
 public:
  AEPPT_DEVICE RankOrder(Lanes lanes, Index k, Entries<T> scratch)
      : lanes_(lanes), k_(k), scratch_(scratch) {}

  // Fills `sorted` with the order of p; `known` says that it holds that of an earlier point.
  AEPPT_DEVICE void sort(const T* p, Entries<T> sorted, bool known) const {
    lanes_.each(k_, [=](Index r) {
      if (!known) sorted.index[r] = static_cast<int32_t>(r);
      sorted.value[r] = p[sorted.index[r]];
    });
    sort_entries(sorted);
  }

  // Sorts values that a step has moved, and brings p in line with them.
  AEPPT_DEVICE void sort_moved(Entries<T> sorted, const T* moved, Norm norm, T* p) const {
    if (norm == Norm::kLinf && merge(sorted, moved, p)) return;
    lanes_.each(k_, [=](Index r) { p[sorted.index[r]] = sorted.value[r]; });
    sort_entries(sorted);
  }

  // The first three of the same order.
  AEPPT_DEVICE void top3(const T* p, Entries<T> top) const {
    Index a = -1, b = -1;  // those taken last
    for (int place = 0; place < 3 && place < k_; ++place) {
      const auto open = [=](Index j) { return j != a && j != b; };
      // Probabilities are not negative, so -1 stands for what is taken.
      const T highest = lanes_.max(k_, [=](Index j) { return open(j) ? p[j] : T(-1); });
      const Index best = lanes_.first(k_, [=](Index j) { return open(j) && p[j] == highest; });
      b = a, a = best;
      lanes_.each(1, [=](Index) {
        top.value[place] = highest;
        top.index[place] = static_cast<int32_t>(best);
      });
    }
  }

 private:
  // Where each entry went by one constant the way that `moved` [k] says: what went one way is still
  // sorted, but for ties that rounding has made. False, and nothing done, where it is not.
  AEPPT_DEVICE bool merge(Entries<T> sorted, const T* moved, T* p) const {
    const Entries<T> parts = scratch_;
    const auto copy_to = [=](Index first) {
      return [=](Index r, Index place) {
        parts.value[first + place] = sorted.value[r];
        parts.index[first + place] = sorted.index[r];
      };
    };
    // Classes of zero probability are apart: they go last, by index.
    const Index up = lanes_.compact(
        k_, [=](Index r) { return sorted.value[r] > 0 && moved[r] > 0; }, copy_to(0));
    const Index down = lanes_.compact(
        k_, [=](Index r) { return sorted.value[r] > 0 && moved[r] < 0; }, copy_to(up));
    const Index kept = up + down;
    const Sums facts = lanes_.sums(
        k_, [=](Index r) { return moved[r] > 0 || moved[r] < 0 ? 0.0 : 1.0; },
        [=](Index r) {
          return r > 0 && r < kept && r != up &&
                         parts.before(r, parts.value[r - 1], parts.index[r - 1])
                     ? 1.0
                     : 0.0;
        });
    if (facts.first + facts.second > 0) return false;
    lanes_.each(kept, [=](Index r) {
      const T value = parts.value[r];
      const int32_t index = parts.index[r];
      const Index place = r < up ? r + parts.rank(up, kept, value, index)
                                 : r - up + parts.rank(0, up, value, index);
      sorted.value[place] = value;
      sorted.index[place] = index;
    });
    lanes_.each(k_, [=](Index j) { p[j] = 0; });
    lanes_.each(kept, [=](Index r) { p[sorted.index[r]] = sorted.value[r]; });
    lanes_.compact(
        k_, [=](Index j) { return !(p[j] > 0); },
        [=](Index j, Index place) {
          sorted.value[kept + place] = 0;
          sorted.index[kept + place] = static_cast<int32_t>(j);
        });
    return true;
  }

  // Merges runs of doubling length, unless nothing is out of order.
  AEPPT_DEVICE void sort_entries(Entries<T> sorted) const {
    const double wrong = lanes_.sum(k_, [=](Index r) {
      return r > 0 && sorted.before(r, sorted.value[r - 1], sorted.index[r - 1]) ? 1.0 : 0.0;
    });
    if (wrong == 0) return;
    const Index k = k_;
    Entries<T> from = sorted, to = scratch_;
    for (Index run = 1; run < k; run *= 2) {
      lanes_.each(k, [=](Index r) {
        const Index first = r / (2 * run) * (2 * run);
        const Index middle = first + run < k ? first + run : k;
        const Index last = middle + run < k ? middle + run : k;
        const T value = from.value[r];
        const int32_t index = from.index[r];
        const Index place = r < middle ? r + from.rank(middle, last, value, index)
                                       : r - run + from.rank(first, middle, value, index);
        to.value[place] = value;
        to.index[place] = index;
      });
      const Entries<T> swap = from;
      from = to, to = swap;
    }
    if (from.value != sorted.value) {
      lanes_.each(k, [=](Index r) {
        sorted.value[r] = from.value[r];
        sorted.index[r] = from.index[r];
      });
    }
  }

  const Lanes lanes_;
  const Index k_;
  const Entries<T> scratch_;
};

}  // namespace aeppt::AEPPT_VARIANT
