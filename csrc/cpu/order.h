// The order of a row's classes by descending probability; ties by ascending index (a stable sort).
//
// Short rows: each entry counts those before it, which vectorises. Long rows: a radix sort on the
// bits, which for non-negative floats order as the values do.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace aeppt::AEPPT_VARIANT {

template <typename T>
struct RadixEntry {
  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> key;
  int32_t index;
};

constexpr int64_t kCountingLimit = 128;

template <typename T>
void order_by_counting(const T* p, int32_t k, int32_t* order) {
  int32_t rank[kCountingLimit] = {};
  for (int32_t j = 0; j < k; ++j) {
    const T value = p[j];
#pragma omp simd
    for (int32_t i = 0; i < j; ++i) rank[i] += value > p[i];
#pragma omp simd
    for (int32_t i = j + 1; i < k; ++i) rank[i] += value >= p[i];
  }
  for (int32_t i = 0; i < k; ++i) order[rank[i]] = i;
}

// scratch: 2 * k entries.
template <typename T>
void order_by_radix(const T* p, int32_t k, int32_t* order, RadixEntry<T>* scratch) {
  using Key = decltype(RadixEntry<T>::key);
  constexpr int kBits = sizeof(T) == 4 ? 30 : 62;  // values are below 2, so the top bits are zero
  constexpr int kDigit = 10, kBuckets = 1 << kDigit;
  constexpr Key kMask = (Key(1) << kBits) - 1;

  RadixEntry<T>*from = scratch, *to = scratch + k;
  int32_t positive = 0, zeros = 0;
  for (int32_t j = 0; j < k; ++j) {
    if (p[j] > 0) {
      Key bits;
      std::memcpy(&bits, &p[j], sizeof bits);
      from[positive++] = {kMask - bits, j};  // ascending keys are descending values
    }
  }
  zeros = positive;
  for (int32_t j = 0; j < k; ++j) {
    if (!(p[j] > 0)) order[zeros++] = j;
  }
  for (int shift = 0; shift < kBits; shift += kDigit) {
    int32_t start[kBuckets] = {};
    for (int32_t i = 0; i < positive; ++i) ++start[(from[i].key >> shift) & (kBuckets - 1)];
    int32_t total = 0;
    for (int32_t& bucket : start) {
      const int32_t count = bucket;
      bucket = total;
      total += count;
    }
    for (int32_t i = 0; i < positive; ++i) {
      to[start[(from[i].key >> shift) & (kBuckets - 1)]++] = from[i];
    }
    RadixEntry<T>* const swap = from;
    from = to, to = swap;
  }
  for (int32_t i = 0; i < positive; ++i) order[i] = from[i].index;
}

template <typename T>
void order_descending(const T* p, int32_t k, int32_t* order, RadixEntry<T>* scratch) {
  if (k <= kCountingLimit) order_by_counting(p, k, order);
  else order_by_radix(p, k, order, scratch);
}

// The first three of the same order.
template <typename T>
void order_top3(const T* p, int32_t k, int32_t* order) {
  const int32_t count = k < 3 ? k : 3;
  for (int32_t place = 0; place < count; ++place) {
    int32_t best = -1;
    for (int32_t j = 0; j < k; ++j) {
      bool taken = false;
      for (int32_t earlier = 0; earlier < place; ++earlier) taken |= order[earlier] == j;
      if (!taken && (best < 0 || p[j] > p[best])) best = j;
    }
    order[place] = best;
  }
}

}  // namespace aeppt::AEPPT_VARIANT
