// The order of a row's classes by descending probability; ties by ascending index (a stable sort).
//
// A class is one integer key: the bits of its probability (which for non-negative floats order as
// the values do), then its index, complemented. So comparing two keys compares two classes. Three
// ways lead to the order, by what is known:
//   sort()        nothing: a count of greater entries for short rows, a radix sort for long ones
//   sort_again()  the order of a nearby point: insertion, as long as little moves
//   merge()       the last step added one constant here and took it there: two sorted lists to
//   merge
// The last is given the values in the order before the step, and brings p in line with them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if AEPPT_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

namespace aeppt::AEPPT_VARIANT {

template <typename T>
class Order {
 public:
  static constexpr bool kFloat = sizeof(T) == 4;
  using Bits = std::conditional_t<kFloat, uint32_t, uint64_t>;
  using Key = std::conditional_t<kFloat, uint64_t, unsigned __int128>;

  // Vectors are stored whole, so that the last may reach this far beyond the end of a list.
  static constexpr int32_t kSlack = 16;
  // scratch: scratch_keys(k) keys, three lists with room for a guard before each.
  static constexpr int64_t list_keys(int64_t k) { return 1 + k + kSlack; }
  static constexpr int64_t scratch_keys(int64_t k) { return 3 * list_keys(k); }
  Order() = default;
  Order(int32_t k, Key* scratch)
      : k_(k), a_(scratch + 1), b_(a_ + list_keys(k)), c_(b_ + list_keys(k)) {}

  // Each fills order [k, and kSlack more] and values [k], the probabilities in that order.
  void sort(const T* p, int32_t* order, T* values) {
    if (k_ <= kCountingLimit) {
      count(p, order);
      for (int32_t r = 0; r < k_; ++r) values[r] = p[order[r]];
    } else {
      int32_t n;
      const Key* const keys = radix(p, n);
      write(keys, n, order, values);
      append_zeros(p, n, order, values);
    }
  }

  void sort_again(const T* p, int32_t* order, T* values) {
    for (int32_t r = 0; r < k_; ++r) a_[r] = key(p[order[r]], order[r]);
    if (insertion(a_, k_)) write(a_, k_, order, values);
    else sort(p, order, values);
  }

  // As merge(), where nothing is known of the step.
  void sort_moved(T* values, int32_t* order, T* p) {
    for (int32_t r = 0; r < k_; ++r) p[order[r]] = values[r];
    sort_again(p, order, values);
  }

  // `moved` [k] says which way each entry of values went, by one constant.
  void merge(T* values, const T* moved, int32_t* order, T* p) {
    const int32_t k = k_;
    Key *const a = a_, *const b = b_;
    int32_t flat = 0;
#pragma omp simd reduction(+ : flat)
    for (int32_t r = 0; r < k; ++r) flat += moved[r] == 0 ? 1 : 0;
    if (flat > 0) return sort_moved(values, order, p);
    const auto [up, down] = partition(values, moved, order);
    const int32_t n = up + down;
    // Rounding and clipping make ties, whose order by index is mended here: a merge from both ends
    // loses keys of a list that is not sorted.
    if (!(insertion(a, up) && insertion(b, down))) return sort_moved(values, order, p);
    if (up < down / 16) insert(a, up, b, down, order, values);
    else if (down < up / 16) insert(b, down, a, up, order, values);
    else merge_keys(a, up, b, down, order, values);
    if (n < k) std::fill_n(p, k, T(0));
#pragma GCC unroll 8
    for (int32_t r = 0; r < n; ++r) p[order[r]] = values[r];
    append_zeros(p, n, order, values);
  }

 private:
  static constexpr int32_t kCountingLimit = 128;
  static constexpr int kDigit = 10;  // bits, of a radix sort
  static constexpr int kIndexBits = kFloat ? 32 : 64;
  static constexpr Key kIndexMask = (Key(1) << kIndexBits) - 1;

  static Key key(T value, int32_t index) {
    const Bits bits = std::bit_cast<Bits>(value + T(0));  // a negative zero becomes a positive one
    return (Key(bits) << kIndexBits) | (kIndexMask - index);
  }
  static void write(const Key* keys, int32_t n, int32_t* order, T* values) {
#pragma omp simd
    for (int32_t r = 0; r < n; ++r) {
      values[r] = std::bit_cast<T>(static_cast<Bits>(keys[r] >> kIndexBits));
      order[r] = static_cast<int32_t>(kIndexMask - (keys[r] & kIndexMask));
    }
  }

  struct Counts {
    int32_t up, down;
  };

  // The keys that are kept, parted into what rose (a_) and what fell (b_).
  Counts partition(const T* values, const T* moved, const int32_t* order) const {
    Key *const a = a_, *const b = b_;
    int32_t up = 0, down = 0;
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (kFloat) {
      const __m256 zero = _mm256_setzero_ps();
      for (int32_t r = 0; r < k_; r += 8) {
        const __mmask8 valid = k_ - r < 8 ? (1 << (k_ - r)) - 1 : 0xff;
        const __m256 value = _mm256_loadu_ps(values + r), move = _mm256_loadu_ps(moved + r);
        const __mmask8 kept = _mm256_mask_cmp_ps_mask(valid, value, zero, _CMP_GT_OQ);
        const __mmask8 rose = _mm256_mask_cmp_ps_mask(kept, move, zero, _CMP_GT_OQ);
        const __m256i bits = _mm256_castps_si256(value);
        const __m256i index = ~_mm256_loadu_si256(reinterpret_cast<const __m256i*>(order + r));
        const __m512i high = _mm512_maskz_cvtepu32_epi64(valid, bits);
        const __m512i keys = high << 32 | _mm512_maskz_cvtepu32_epi64(valid, index);
        _mm512_storeu_si512(a + up, _mm512_maskz_compress_epi64(rose, keys));
        _mm512_storeu_si512(b + down, _mm512_maskz_compress_epi64(kept & ~rose, keys));
        up += __builtin_popcount(rose);
        down += __builtin_popcount(kept & ~rose);
      }
      return {up, down};
    }
#endif
    for (int32_t r = 0; r < k_; ++r) {
      a[up] = b[down] = key(values[r], order[r]);
      const int32_t kept = values[r] > 0, rose = moved[r] > 0;
      up += kept & rose;
      down += kept & (rose ^ 1);
    }
    return {up, down};
  }

  // Merging two sorted lists. Where one is short, its keys go between runs of the other.
  void insert(const Key* few, int32_t few_count, const Key* many, int32_t many_count,
              int32_t* order, T* values) const {
    Key* to = c_;
    const auto copy_run = [&](int32_t count) {
      std::memcpy(to, many, count * sizeof(Key));
      to += count, many += count, many_count -= count;
    };
    for (int32_t i = 0; i < few_count; ++i) {
      copy_run(greater(many, many_count, few[i]));
      *to++ = few[i];
    }
    copy_run(many_count);
    write(c_, static_cast<int32_t>(to - c_), order, values);
  }

#if AEPPT_VECTOR_BYTES == 64
  // Else eight keys at a time (Chhugani et al. 2008, section 4): the list with the greater head is
  // read on, and a bitonic network parts what was read and what was kept into the eight greatest of
  // all that is left and eight others. Each list ends in 16 zeros.
  class Eights {
   public:
    Eights(const Key* a, const Key* b) : a_(a), b_(b), kept_(read()) {}

    __m512i next() {
      const __m512d read = __builtin_shufflevector(this->read(), kept_, 7, 6, 5, 4, 3, 2, 1, 0);
      // Two bitonic lists, which are sorted side by side: the greater eight, h, and the others, l.
      __m512d h = max(kept_, read), l = min(kept_, read);
      __m512d one = __builtin_shufflevector(h, l, 0, 1, 2, 3, 8, 9, 10, 11);
      __m512d other = __builtin_shufflevector(h, l, 4, 5, 6, 7, 12, 13, 14, 15);
      h = max(one, other), l = min(one, other);  // h0 to h3 and l0 to l3; h4 to h7 and l4 to l7
      one = __builtin_shufflevector(h, l, 0, 1, 4, 5, 8, 9, 12, 13);
      other = __builtin_shufflevector(h, l, 2, 3, 6, 7, 10, 11, 14, 15);
      h = max(one, other), l = min(one, other);  // h01, l01, h45, l45; h23, l23, h67, l67
      one = __builtin_shufflevector(h, l, 0, 8, 2, 10, 4, 12, 6, 14);
      other = __builtin_shufflevector(h, l, 1, 9, 3, 11, 5, 13, 7, 15);
      h = max(one, other), l = min(one, other);  // h02, l02, h46, l46; h13, l13, h57, l57
      kept_ = __builtin_shufflevector(h, l, 2, 10, 3, 11, 6, 14, 7, 15);
      one = __builtin_shufflevector(h, l, 0, 8, 1, 9, 4, 12, 5, 13);
      return _mm512_castpd_si512(one) & ~tag();
    }

   private:
    // Keys are below 2^62; with this bit they are normal doubles, and in the same order.
    static __m512i tag() { return _mm512_set1_epi64(1LL << 62); }
    static __m512d max(__m512d x, __m512d y) { return _mm512_maskz_max_pd(0xff, x, y); }
    static __m512d min(__m512d x, __m512d y) { return _mm512_maskz_min_pd(0xff, x, y); }
    __m512d read() {
      const bool from_a = *a_ > *b_;
      const Key* const from = from_a ? a_ : b_;
      a_ += from_a ? 8 : 0;
      b_ += from_a ? 0 : 8;
      return _mm512_castsi512_pd(_mm512_loadu_si512(from) | tag());
    }

    const Key *a_, *b_;
    __m512d kept_;
  };

  static void write_eight(__m512i keys, int32_t* order, T* values) {
    const __m256i bits = _mm512_maskz_cvtepi64_epi32(0xff, keys >> kIndexBits);
    _mm256_storeu_ps(values, _mm256_castsi256_ps(bits));
    const __m256i index = ~_mm512_maskz_cvtepi64_epi32(0xff, keys);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(order), index);
  }

  // The greater half of all keys and the lesser, side by side: each waits for its own last eight.
  static void merge_eights(Key* a, int32_t up, Key* b, int32_t down, int32_t* order, T* values) {
    for (Key* const end : {a + up, b + down}) {
      _mm512_storeu_si512(end, __m512i{});
      _mm512_storeu_si512(end + 8, __m512i{});
    }
    const int32_t all = up + down, half = all / 16 * 8, of_a = greatest(half, a, up, b, down);
    Eights greater(a, b), lesser(a + of_a, b + (half - of_a));
    for (int32_t i = 0; i < half; i += 8) {
      write_eight(greater.next(), order + i, values + i);
      write_eight(lesser.next(), order + half + i, values + half + i);
    }
    for (int32_t i = 2 * half; i < all; i += 8) write_eight(lesser.next(), order + i, values + i);
  }
#endif

  // Or, without such vectors, from both ends at once.
  struct Ends {
    const Key *front_a, *front_b, *back_a, *back_b;
    Key *front, *back;

    bool apart() const { return front < back; }
    void advance() {
      const Key high_a = *front_a, high_b = *front_b, low_a = *back_a, low_b = *back_b;
      const bool take_high = high_a > high_b, take_low = low_a < low_b;
      *front++ = take_high ? high_a : high_b;
      *back-- = take_low ? low_a : low_b;
      front_a += take_high, front_b += !take_high;
      back_a -= take_low, back_b -= !take_low;
    }
    void finish() {
      while (apart()) advance();
      if (front == back) *front = *front_a > *front_b ? *front_a : *front_b;
    }
  };

  // The greater half of all keys and the lesser half, each from both ends: four chains of dependent
  // loads instead of one of four times the length.
  void merge_keys(Key* a, int32_t up, Key* b, int32_t down, int32_t* order, T* values) const {
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (kFloat) return merge_eights(a, up, b, down, order, values);
#endif
    Key* const c = c_;
    // Guards keep a list that has run out from being chosen.
    a[up] = b[down] = 0;
    a[-1] = b[-1] = ~Key(0);
    const int32_t half = (up + down) / 2, all = up + down, of_a = greatest(half, a, up, b, down);
    const Key *const split_a = a + of_a, *const split_b = b + (half - of_a);
    Ends greater{a, b, split_a - 1, split_b - 1, c, c + half - 1};
    Ends lesser{split_a, split_b, a + up - 1, b + down - 1, c + half, c + all - 1};
    for (; greater.apart(); greater.advance(), lesser.advance()) {
    }
    greater.finish();
    lesser.finish();
    write(c, all, order, values);
  }

  // How many of the so many greatest keys of two lists are in a.
  static int32_t greatest(int32_t count, const Key* a, int32_t up, const Key* b, int32_t down) {
    int32_t low = count > down ? count - down : 0, high = count < up ? count : up;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (a[middle] > b[count - middle - 1]) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // How many of n sorted keys are greater than the limit.
  static int32_t greater(const Key* keys, int32_t n, Key limit) {
    int32_t low = 0;
    while (low < n) {
      const int32_t middle = (low + n) / 2;
      if (keys[middle] > limit) low = middle + 1;
      else n = middle;
    }
    return low;
  }

  // Sorts n keys that are nearly sorted; false, half done, where too much would move.
  static bool insertion(Key* keys, int32_t n) {
    int32_t wrong = 0;
#pragma omp simd reduction(+ : wrong)
    for (int32_t i = 1; i < n; ++i) wrong += keys[i - 1] < keys[i] ? 1 : 0;
    if (wrong == 0) return true;
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
    constexpr int32_t kBlock = 16;  // rows are padded
    const int32_t end = (k_ + kBlock - 1) / kBlock * kBlock;
    int32_t rank[kCountingLimit] = {};
    for (int32_t j = 0; j < k_; ++j) {
      const T value = p[j];
      const int32_t near = j / kBlock * kBlock, far = near + kBlock;
#pragma omp simd
      for (int32_t i = 0; i < near; ++i) rank[i] += value > p[i];
#pragma omp simd
      for (int32_t i = near; i < far; ++i) rank[i] += value > p[i] || (value == p[i] && j < i);
#pragma omp simd
      for (int32_t i = far; i < end; ++i) rank[i] += value >= p[i];
    }
    for (int32_t i = 0; i < k_; ++i) order[rank[i]] = i;
  }

  // The classes of zero probability, after the n others.
  void append_zeros(const T* p, int32_t n, int32_t* order, T* values) const {
    for (int32_t r = n; r < k_; ++r) values[r] = 0;
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (kFloat) {
      __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      for (int32_t j = 0; n < k_; j += 16) {
        const __mmask16 valid = k_ - j < 16 ? (1 << (k_ - j)) - 1 : 0xffff;
        const __mmask16 none = _mm512_mask_cmp_ps_mask(valid, _mm512_loadu_ps(p + j),
                                                       _mm512_setzero_ps(), _CMP_NGT_UQ);
        _mm512_storeu_si512(order + n, _mm512_maskz_compress_epi32(none, index));
        n += __builtin_popcount(none);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
      }
      return;
    }
#endif
    for (int32_t j = 0; n < k_; ++j) {
      order[n] = j;
      n += !(p[j] > 0);
    }
  }

  // The keys of the n positive entries, sorted. Two digits of how far a value is below the greatest
  // tell nearly all entries apart, and insertion the rest; where it does not, all digits count.
  const Key* radix(const T* p, int32_t& n) {
    Key* const keys = a_;
    int32_t positive = 0;
    T highest = 0, lowest = 2;
#pragma omp simd reduction(+ : positive) reduction(max : highest) reduction(min : lowest)
    for (int32_t j = 0; j < k_; ++j) {
      const T counted = p[j] > 0 ? p[j] : T(2);
      positive += p[j] > 0 ? 1 : 0;
      lowest = counted < lowest ? counted : lowest;
      highest = p[j] > highest ? p[j] : highest;
    }
    n = positive;
    if (n == k_) {
#pragma omp simd
      for (int32_t j = 0; j < k_; ++j) keys[j] = key(p[j], j);
    } else {
      for (int32_t j = 0, place = 0; place < n; ++j) {
        keys[place] = key(p[j], j);
        place += p[j] > 0;
      }
    }
    const Bits greatest = std::bit_cast<Bits>(highest), least = std::bit_cast<Bits>(lowest);
    constexpr int kAllDigits = ((kFloat ? 30 : 62) + kDigit - 1) / kDigit;  // of values below 2
    const int width = n > 0 ? std::bit_width(static_cast<Bits>(greatest - least)) : 0;
    Key *from = a_, *to = b_;
    sort_digits<2>(from, to, n, greatest, width > 2 * kDigit ? width - 2 * kDigit : 0);
    if (!insertion(from, n)) sort_digits<kAllDigits>(from, to, n, greatest, 0);
    return from;
  }

  // Sorts by how far a value is below the greatest: by that many digits, from the bit `low` on.
  template <int kDigits>
  static void sort_digits(Key*& from, Key*& to, int32_t n, Bits greatest, int low) {
    constexpr int kBuckets = 1 << kDigit;
    int32_t start[kDigits][kBuckets] = {};
    const auto digit = [=](Key key, int place) {
      const Bits below = greatest - static_cast<Bits>(key >> kIndexBits);
      return below >> low >> (place * kDigit) & (kBuckets - 1);
    };
    for (int32_t i = 0; i < n; ++i) {
#pragma GCC unroll 8
      for (int place = 0; place < kDigits; ++place) ++start[place][digit(from[i], place)];
    }
    int32_t total[kDigits] = {};
    for (int bucket = 0; bucket < kBuckets; ++bucket) {
#pragma GCC unroll 8
      for (int place = 0; place < kDigits; ++place) {
        const int32_t size = start[place][bucket];
        start[place][bucket] = total[place];
        total[place] += size;
      }
    }
    for (int place = 0; place < kDigits; ++place) {
      for (int32_t i = 0; i < n; ++i) to[start[place][digit(from[i], place)]++] = from[i];
      Key* const swap = from;
      from = to, to = swap;
    }
  }

  int32_t k_;
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
