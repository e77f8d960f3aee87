// A block whose lanes one CPU thread runs in turn, the last lane first: slow, and the same
// arithmetic in the same order as on a GPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "block_search.h"

namespace aeppt::AEPPT_VARIANT {

// A team of kLanes lanes: part of a warp, a warp, or several whose totals are added in order.
template <int kLanes>
struct EmulatedLanes {
  static constexpr int kTogether = kLanes < kWarp ? kLanes : kWarp;

  template <typename F>
  void each(int64_t n, F f) const {
    for (int64_t lane = kLanes - 1; lane >= 0; --lane) {
      for (int64_t j = lane; j < n; j += kLanes) f(j);
    }
  }
  template <typename F>
  double sum(int64_t n, F f) const {
    double part[kLanes] = {};
    each(n, [&](int64_t j) { part[j % kLanes] += f(j); });
    double total = 0;
    for (int warp = 0; warp < kLanes; warp += kTogether) {
      for (int offset = kTogether / 2; offset > 0; offset /= 2) {
        for (int lane = 0; lane < offset; ++lane) part[warp + lane] += part[warp + lane + offset];
      }
      total = warp == 0 ? part[0] : total + part[warp];
    }
    return total;
  }
  template <typename F, typename G>
  Sums sums(int64_t n, F f, G g) const {
    return {sum(n, f), sum(n, g)};
  }
  template <typename F>
  auto max(int64_t n, F f) const {
    std::decay_t<decltype(f(0))> highest = f(0);
    each(n, [&](int64_t j) { highest = f(j) > highest ? f(j) : highest; });
    return highest;
  }
  template <typename F>
  int64_t first(int64_t n, F f) const {
    int64_t least = n;
    each(n, [&](int64_t j) { least = f(j) && j < least ? j : least; });
    return least;
  }
  template <typename V>
  V read(const V* p) const {
    return *p;
  }
  template <typename Keep, typename Emit>
  int64_t compact(int64_t n, Keep keep, Emit emit) const {
    int64_t count = 0;
    for (int64_t j = 0; j < n; ++j) {
      if (keep(j)) emit(j, count++);
    }
    return count;
  }
  int64_t fetch(std::atomic<int64_t>* counter) const {
    return counter->fetch_add(1, std::memory_order_relaxed);
  }
};

template <int kLanes>
struct EmulatedBlock {
  using Lanes = EmulatedLanes<kLanes>;

  template <typename F>
  void teams(int64_t n, F f) const {
    for (int64_t i = n - 1; i >= 0; --i) f(Lanes(), i);
  }
  template <typename F>
  void warps(int64_t n, F f) const {
    for (int64_t i = n - 1; i >= 0; --i) {
      for (int lane = kWarp - 1; lane >= 0; --lane) f(i, lane);
    }
  }
  template <typename F>
  int64_t select(int64_t n, F f, int32_t* list) const {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (f(i)) list[count++] = static_cast<int32_t>(i);
    }
    return count;
  }
};

}  // namespace aeppt::AEPPT_VARIANT
