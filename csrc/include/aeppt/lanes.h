// Lanes that work on one row together: what the search of a row is written against.
//
// An engine brings a type with these members; all lanes of a row call them together.
//   each(n, f)         f(j) for all j < n, in any order; then every lane sees what was written
//   each_padded(n, f)  the same; f may be called for some j beyond n too, in the padding of a row
//   sum(n, f)          the sum of f(j), in double
//   sums(n, f, g)      two of them in one pass
//   max(n, f)          the greatest f(j), n >= 1
//   first(n, f)        the least j for which f(j) holds; n where it holds for none
//   last(n, f)         one more than the greatest; 0 where it holds for none
//   read(p)            *p, which any lane may overwrite afterwards
// In sums, max and last, f may be called in the padding as well, which counts for nothing. But for
// max it may write at its own j before its value is taken: the lane of j sees that at once, the
// others afterwards. The order of a sum depends on n and on nothing else. Values outside such a
// call are the same in every lane.
#pragma once

#include <cstdint>

#ifndef AEPPT_VARIANT
#define AEPPT_VARIANT generic
#endif

// AEPPT_DEVICE stands before each function that a GPU runs too.
#define AEPPT_PRAGMA(text) _Pragma(#text)
#ifdef __CUDACC__
#define AEPPT_DEVICE __device__
#define AEPPT_UNROLL(times) AEPPT_PRAGMA(unroll times)
#else
#define AEPPT_DEVICE
#define AEPPT_UNROLL(times) AEPPT_PRAGMA(GCC unroll times)
#endif

namespace aeppt::AEPPT_VARIANT {

using Index = int32_t;  // of a class, or of a place in a row

struct Sums {
  double first, second;
};

// One thread of a CPU, whose lanes are those of its vectors.
struct SimdLanes {
  template <typename F>
  void each(Index n, F f) const {
#pragma omp simd
    for (Index j = 0; j < n; ++j) f(j);
  }
  // Whole vectors, without a rest: rows are padded.
  template <typename F>
  void each_padded(Index n, F f) const {
    const Index whole = (n + kBlock - 1) / kBlock * kBlock;
#pragma omp simd
    for (Index j = 0; j < whole; ++j) f(j);
  }
  template <typename F>
  double sum(Index n, F f) const {
    double sum = 0;
    const Index whole = n / kBlock * kBlock;
#pragma omp simd reduction(+ : sum)
    for (Index j = 0; j < whole; ++j) sum += f(j);
    if (whole == n) return sum;
#pragma omp simd reduction(+ : sum)
    for (Index j = whole; j < whole + kBlock; ++j) {
      const double value = f(j);
      sum += j < n ? value : 0.0;
    }
    return sum;
  }
  template <typename F, typename G>
  Sums sums(Index n, F f, G g) const {
    double first = 0, second = 0;
    const Index whole = n / kBlock * kBlock;
#pragma omp simd reduction(+ : first, second)
    for (Index j = 0; j < whole; ++j) {
      first += f(j);
      second += g(j);
    }
    if (whole == n) return {first, second};
#pragma omp simd reduction(+ : first, second)
    for (Index j = whole; j < whole + kBlock; ++j) {
      const double one = f(j), other = g(j);
      first += j < n ? one : 0.0;
      second += j < n ? other : 0.0;
    }
    return {first, second};
  }
  template <typename F>
  auto max(Index n, F f) const {
    auto highest = f(0);
    const auto lowest = highest;
    const Index whole = (n + kBlock - 1) / kBlock * kBlock;
#pragma omp simd reduction(max : highest)
    for (Index j = 0; j < whole; ++j) {
      const auto value = j < n ? f(j) : lowest;
      highest = value > highest ? value : highest;
    }
    return highest;
  }
  template <typename F>
  Index first(Index n, F f) const {
    for (Index j = 0; j < n; ++j) {
      if (f(j)) return j;
    }
    return n;
  }
  template <typename F>
  Index last(Index n, F f) const {
    Index last = 0;
    const Index whole = (n + kBlock - 1) / kBlock * kBlock;
#pragma omp simd reduction(max : last)
    for (Index j = 0; j < whole; ++j) {
      const bool holds = f(j);
      const Index end = holds && j < n ? j + 1 : 0;
      last = end > last ? end : last;
    }
    return last;
  }
  template <typename V>
  V read(const V* p) const {
    return *p;
  }

 private:
  static constexpr Index kBlock = 16;
};

}  // namespace aeppt::AEPPT_VARIANT
