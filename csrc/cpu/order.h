// The order of a row's classes by descending probability; ties by ascending index (a stable sort).
//
// A class is one integer key: the bits of its probability (which for non-negative floats order as
// the values do), then its index, complemented. So comparing two keys compares two classes. Three
// ways lead to the order, by what is known:
//   sort()        nothing: a count of greater entries for short rows, a radix sort for long ones
//   sort_again()  the order of a nearby point: insertion, as long as little moves
//   merge()       the last step added one constant here and took it there: two sorted lists to
//   merge
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace aeppt::AEPPT_VARIANT {

template <typename T>
class Order {
 public:
  static constexpr bool kFloat = sizeof(T) == 4;
  using Bits = std::conditional_t<kFloat, uint32_t, uint64_t>;
  using Key = std::conditional_t<kFloat, uint64_t, unsigned __int128>;

  // scratch: scratch_keys(k) keys.
  static constexpr int64_t scratch_keys(int64_t k) { return 3 * (k + 2); }
  Order(int32_t k, Key* scratch)
      : k_(k), a_(scratch + 1), b_(scratch + k + 3), c_(scratch + 2 * k + 5) {}

  // Each fills order [k] and values [k], the probabilities in that order.
  void sort(const T* p, int32_t* order, T* values) {
    if (k_ <= kCountingLimit) {
      count(p, order);
      for (int32_t r = 0; r < k_; ++r) values[r] = p[order[r]];
    } else {
      write(radix(p), order, values);
    }
  }

  void sort_again(const T* p, int32_t* order, T* values) {
    for (int32_t r = 0; r < k_; ++r) a_[r] = key(p[order[r]], order[r]);
    if (insertion(a_, k_)) write(a_, order, values);
    else sort(p, order, values);
  }

  // `moved` [k] says which way each class went, by one constant; the label stands first after it.
  void merge(const T* p, const T* moved, int32_t label, int32_t* order, T* values) {
    const int32_t k = k_;
    Key *const a = a_, *const b = b_, *const c = c_;
    int32_t flat = 0;
#pragma omp simd reduction(+ : flat)
    for (int32_t j = 0; j < k; ++j) flat += moved[j] == 0 ? 1 : 0;
    if (flat > 0) return sort_again(p, order, values);
    int32_t up = 0, down = 0;
    for (int32_t r = 0; r < k; ++r) {
      const int32_t j = order[r];
      const Key entry = key(p[j], j);
      a[up] = b[down] = entry;
      const int32_t kept = (p[j] > 0) & (j != label), rose = moved[j] > 0;
      up += kept & rose;
      down += kept & (rose ^ 1);
    }
    const int32_t n = 1 + up + down;
    c[0] = key(p[label], label);
    // From both ends at once: two chains of dependent loads instead of one of twice the length.
    // Guards keep a list that has run out from being chosen.
    a[up] = b[down] = 0;
    a[-1] = b[-1] = ~Key(0);
    const Key *front_a = a, *front_b = b, *back_a = a + up - 1, *back_b = b + down - 1;
    int32_t front = 1, back = n - 1;
    for (; front < back; ++front, --back) {
      const Key high_a = *front_a, high_b = *front_b, low_a = *back_a, low_b = *back_b;
      const bool take_high = high_a > high_b, take_low = low_a < low_b;
      c[front] = take_high ? high_a : high_b;
      c[back] = take_low ? low_a : low_b;
      front_a += take_high, front_b += !take_high;
      back_a -= take_low, back_b -= !take_low;
    }
    if (front == back) c[front] = *front_a > *front_b ? *front_a : *front_b;
    // Rounding and clipping make ties, whose order by index is mended here.
    if (!insertion(c, n)) return sort(p, order, values);
    append_zeros(p, n, c);
    write(c, order, values);
  }

 private:
  static constexpr int32_t kCountingLimit = 128;
  static constexpr int kIndexBits = kFloat ? 32 : 64;
  static constexpr Key kIndexMask = (Key(1) << kIndexBits) - 1;

  static Key key(T value, int32_t index) {
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (Key(bits) << kIndexBits) | (kIndexMask - index);
  }
  void write(const Key* keys, int32_t* order, T* values) const {
    const int32_t k = k_;
    for (int32_t r = 0; r < k; ++r) {
      const Bits bits = static_cast<Bits>(keys[r] >> kIndexBits);
      std::memcpy(&values[r], &bits, sizeof bits);
      order[r] = static_cast<int32_t>(kIndexMask - (keys[r] & kIndexMask));
    }
  }

  // Sorts n keys that are nearly sorted; false, half done, where too much would move.
  static bool insertion(Key* keys, int32_t n) {
    int64_t moves = 4 * static_cast<int64_t>(n);
    for (int32_t i = 1; i < n; ++i) {
      const Key moving = keys[i];
      int32_t j = i;
      for (; j > 0 && keys[j - 1] < moving; --j) keys[j] = keys[j - 1];
      keys[j] = moving;
      moves -= i - j;
      if (moves < 0) return false;
    }
    return true;
  }

  void count(const T* p, int32_t* order) const {
    int32_t rank[kCountingLimit] = {};
    for (int32_t j = 0; j < k_; ++j) {
      const T value = p[j];
#pragma omp simd
      for (int32_t i = 0; i < j; ++i) rank[i] += value > p[i];
#pragma omp simd
      for (int32_t i = j + 1; i < k_; ++i) rank[i] += value >= p[i];
    }
    for (int32_t i = 0; i < k_; ++i) order[rank[i]] = i;
  }

  void append_zeros(const T* p, int32_t n, Key* keys) const {
    for (int32_t j = 0; n < k_; ++j) {
      keys[n] = key(T(0), j);
      n += !(p[j] > 0);
    }
  }

  const Key* radix(const T* p) {
    constexpr int kBits = kFloat ? 30 : 62;  // values are below 2, so the top bits are zero
    constexpr int kDigit = 10, kBuckets = 1 << kDigit, kPasses = (kBits + kDigit - 1) / kDigit;
    int32_t start[kPasses][kBuckets] = {};
    const auto digit = [](Key key, int pass) {  // complemented, so that ascending is descending
      return kBuckets - 1 -
             (static_cast<Bits>(key >> kIndexBits) >> (pass * kDigit) & (kBuckets - 1));
    };
    Key *from = a_, *to = b_;
    int32_t n = 0;
    for (int32_t j = 0; j < k_; ++j) {
      from[n] = key(p[j], j);
      n += p[j] > 0;
    }
    for (int32_t i = 0; i < n; ++i) {
      for (int pass = 0; pass < kPasses; ++pass) ++start[pass][digit(from[i], pass)];
    }
    for (int pass = 0; pass < kPasses; ++pass) {
      int32_t total = 0;
      for (int32_t& bucket : start[pass]) {
        const int32_t size = bucket;
        bucket = total;
        total += size;
      }
      for (int32_t i = 0; i < n; ++i) to[start[pass][digit(from[i], pass)]++] = from[i];
      Key* const swap = from;
      from = to, to = swap;
    }
    append_zeros(p, n, from);
    return from;
  }

  const int32_t k_;
  Key *a_, *b_, *c_;
};

// The first three of the same order.
template <typename T>
void order_top3(const T* p, int32_t k, int32_t* order, T* values) {
  const int32_t count = k < 3 ? k : 3;
  for (int32_t place = 0; place < count; ++place) {
    int32_t best = -1;
    for (int32_t j = 0; j < k; ++j) {
      bool taken = false;
      for (int32_t earlier = 0; earlier < place; ++earlier) taken |= order[earlier] == j;
      if (!taken && (best < 0 || p[j] > p[best])) best = j;
    }
    order[place] = best;
    values[place] = p[best];
  }
}

}  // namespace aeppt::AEPPT_VARIANT
