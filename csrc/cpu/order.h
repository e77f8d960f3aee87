// The order of a row's classes by descending probability; ties by ascending index (a stable sort).
//
// A class is one integer key: the bits of its probability (which for non-negative floats order as
// the values do), then its index, complemented. So comparing two keys compares two classes. Three
// ways lead to the order, by what is known:
//   sort()        nothing: a count of greater entries for short rows, a radix sort for long ones
//   sort_again()  the order of a nearby point: insertion, as long as little moves
//   merge()       the last step added one constant here and took it there: two sorted lists
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

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

  // Vectors are read and stored whole, so that the last may reach this far beyond a list's end.
  static constexpr int32_t kSlack = 16;
  // scratch: scratch_keys(k) keys, which are zero: three lists, a row of values and a bitmap.
  static constexpr int64_t list_keys(int64_t k) { return k + kSlack; }
  static constexpr int64_t scratch_keys(int64_t k) { return 5 * list_keys(k); }
  Order() = default;
  Order(int32_t k, Key* scratch)
      : k_(k),
        a_(scratch),
        b_(a_ + list_keys(k)),
        c_(b_ + list_keys(k)),
        by_class_(reinterpret_cast<T*>(c_ + list_keys(k))),
        ties_(reinterpret_cast<uint64_t*>(c_ + 2 * list_keys(k))) {}

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

  // The next two are given `values` as they are after a step, in the `order` before it; they sort
  // the values and fill new_order, which may be the same. Nothing else is known of the step:
  void sort_moved(T* values, const int32_t* order, int32_t* new_order) {
    for (int32_t r = 0; r < k_; ++r) a_[r] = key(values[r], order[r]);
    if (insertion(a_, k_)) return write(a_, k_, new_order, values);
    for (int32_t r = 0; r < k_; ++r) by_class_[order[r]] = values[r];
    sort(by_class_, new_order, values);
  }

  // Or `moved` [k] says by its signs which way each entry went, by one constant.
  void merge(T* values, const T* moved, const int32_t* order, int32_t* new_order) {
    Key *const a = a_, *const b = b_;
    const auto [up, down, flat] = partition(values, moved, order);
    // Rounding and clipping make ties, whose order by index is mended here: a merge loses keys of a
    // list that is not sorted.
    if (flat > 0 || !(insertion(a, up) && insertion(b, down))) {
      return sort_moved(values, order, new_order);
    }
    if (up < down / 16) insert(a, up, b, down);
    else if (down < up / 16) insert(b, down, a, up);
    else merge_keys(a, up, b, down);
    const int32_t n = up + down;
    write(c_, n, new_order, values);
    if (n == k_) return;
    std::fill_n(by_class_, k_, T(0));
    for (int32_t r = 0; r < n; ++r) by_class_[new_order[r]] = values[r];
    append_zeros(by_class_, n, new_order, values);
  }

 private:
  static constexpr int32_t kCountingLimit = 128;
  static constexpr int32_t kFewTies = 8;
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
    int32_t up, down, flat;
  };

  // The keys that are positive, parted into what rose (a_) and what fell (b_).
  Counts partition(const T* values, const T* moved, const int32_t* order) const {
    Key *const a = a_, *const b = b_;
    int32_t up = 0, down = 0, flat = 0;
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (kFloat) {
      const __m512 zero = _mm512_setzero_ps();
      // The bits of a value stand above the index.
      const __m512i first =
          _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      const __m512i second = first + _mm512_set1_epi64(0x800000008);
      for (int32_t r = 0; r < k_; r += 16) {
        const __mmask16 valid = k_ - r < 16 ? (1 << (k_ - r)) - 1 : 0xffff;
        const __m512 value = _mm512_maskz_loadu_ps(valid, values + r);
        const __m512 move = _mm512_maskz_loadu_ps(valid, moved + r);
        const __mmask16 kept = _mm512_cmp_ps_mask(value, zero, _CMP_GT_OQ);
        const __mmask16 rose = _mm512_mask_cmp_ps_mask(kept, move, zero, _CMP_GT_OQ);
        const __mmask16 fell = _mm512_mask_cmp_ps_mask(kept, move, zero, _CMP_LT_OQ);
        const __m512i bits = _mm512_castps_si512(value);
        const __m512i index = ~_mm512_maskz_loadu_epi32(valid, order + r);
        for (const int half : {0, 8}) {
          const __m512i keys = _mm512_permutex2var_epi32(index, half == 0 ? first : second, bits);
          const __mmask8 to_a = rose >> half, to_b = fell >> half;
          _mm512_storeu_si512(a + up, _mm512_maskz_compress_epi64(to_a, keys));
          _mm512_storeu_si512(b + down, _mm512_maskz_compress_epi64(to_b, keys));
          up += __builtin_popcount(to_a);
          down += __builtin_popcount(to_b);
        }
        flat |= kept & ~(rose | fell);
      }
      return {up, down, flat};
    }
#endif
    for (int32_t r = 0; r < k_; ++r) {
      a[up] = b[down] = key(values[r], order[r]);
      const int32_t kept = values[r] > 0, rose = moved[r] > 0, fell = moved[r] < 0;
      up += kept & rose;
      down += kept & fell;
      flat |= kept & ~(rose | fell);
    }
    return {up, down, flat};
  }

#if AEPPT_VECTOR_BYTES == 64
  // Eight keys at a time (Chhugani et al. 2008, section 4): the list with the greater head is read
  // on, and a bitonic network parts what was read and what was kept into the eight greatest of all
  // that is left and eight others. Each list ends in 16 zeros.
  class MergeEights {
   public:
    MergeEights() = default;
    MergeEights(const Key* a, const Key* b, Key* to) : a_(a), b_(b), to_(to), kept_(read()) {}

    void advance() {
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
      _mm512_storeu_si512(to_, _mm512_castpd_si512(one) & ~tag());
      to_ += 8;
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
    Key* to_;
    __m512d kept_;
  };
#endif

  // Or one at a time.
  class MergeKeys {
   public:
    MergeKeys() = default;
    MergeKeys(const Key* a, const Key* b, Key* to) : a_(a), b_(b), to_(to) {}

    void advance() {
      const Key from_a = *a_, from_b = *b_;
      const bool take_a = from_a > from_b;
      *to_++ = take_a ? from_a : from_b;
      a_ += take_a, b_ += !take_a;
    }

   private:
    const Key *a_, *b_;
    Key* to_;
  };

#if AEPPT_VECTOR_BYTES == 64
  using Merge = std::conditional_t<kFloat, MergeEights, MergeKeys>;
#else
  using Merge = MergeKeys;
#endif
  static constexpr int32_t kAbreast = std::is_same_v<Merge, MergeKeys> ? 1 : 8;

  // Two sorted lists become one, in c_. Where one is short, its keys go between runs of the other.
  void insert(const Key* few, int32_t few_count, const Key* many, int32_t many_count) const {
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
  }

  // Else the quarters of what becomes of them are made side by side: each waits for itself alone.
  void merge_keys(Key* a, int32_t up, Key* b, int32_t down) const {
    constexpr int32_t kQuarters = 4;
    const int32_t all = up + down, quarter = all / (kQuarters * kAbreast) * kAbreast;
    for (Key* const end : {a + up, b + down}) std::fill_n(end, kSlack, Key(0));
    Merge part[kQuarters];
    for (int32_t q = 0; q < kQuarters; ++q) {
      const int32_t of_a = greatest(q * quarter, a, up, b, down);
      part[q] = {a + of_a, b + (q * quarter - of_a), c_ + q * quarter};
    }
    for (int32_t i = 0; i < quarter; i += kAbreast) {
#pragma GCC unroll 4
      for (int32_t q = 0; q < kQuarters; ++q) part[q].advance();
    }
    for (int32_t i = kQuarters * quarter; i < all; i += kAbreast) part[kQuarters - 1].advance();
  }

  // How many of the so many greatest keys of two lists are in a.
  static int32_t greatest(int32_t count, const Key* a, int32_t up, const Key* b, int32_t down) {
    int32_t low = count > down ? count - down : 0, high = count < up ? count : up;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      const bool more = a[middle] > b[count - middle - 1];
      low = more ? middle + 1 : low;
      high = more ? high : middle;
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
  bool insertion(Key* keys, int32_t n) const {
    int64_t moves = 4 * static_cast<int64_t>(n);
    for (int32_t i = next_rise(keys, 1, n); i < n; i = next_rise(keys, i, n)) {
      if (int32_t end = i; keys[i] >> kIndexBits == keys[i - 1] >> kIndexBits) {
        const Bits value = static_cast<Bits>(keys[i] >> kIndexBits);
        int32_t first = i - 1;
        while (first > 0 && keys[first - 1] >> kIndexBits == value) --first;
        while (end < n && keys[end] >> kIndexBits == value) ++end;
        if (end - first > kFewTies) {
          sort_ties(keys + first, keys + end);
          i = end;
          continue;
        }
      }
      const Key moving = keys[i];
      int32_t j = i;
      for (; j > 0 && keys[j - 1] < moving; --j) keys[j] = keys[j - 1];
      keys[j] = moving;
      moves -= i - j;
      if (moves < 0) return false;
    }
    return true;
  }

  // The first place from i on, which is not the first of all, whose key is greater than the one
  // before it; n where there is none.
  static int32_t next_rise(const Key* keys, int32_t i, int32_t n) {
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (kFloat) {
      for (; i < n; i += 8) {
        const __mmask8 valid = n - i < 8 ? (1 << (n - i)) - 1 : 0xff;
        const __m512i before = _mm512_loadu_si512(keys + i - 1),
                      here = _mm512_loadu_si512(keys + i);
        const __mmask8 rises = _mm512_mask_cmplt_epu64_mask(valid, before, here);
        if (rises != 0) return i + std::countr_zero(rises);
      }
      return n;
    }
#endif
    constexpr int32_t kBlock = 128;
    for (; i + kBlock <= n; i += kBlock) {
      Key rises = 0;
#pragma omp simd reduction(| : rises)
      for (int32_t j = i; j < i + kBlock; ++j) rises |= keys[j - 1] < keys[j] ? 1 : 0;
      if (rises != 0) break;
    }
    while (i < n && !(keys[i - 1] < keys[i])) ++i;
    return i;
  }

  // Keys of one value, which caps and floors make by the hundred: a bitmap of their indices tells
  // the order.
  void sort_ties(Key* keys, Key* end) const {
    const Key value = *keys & ~kIndexMask;
    for (const Key* tie = keys; tie < end; ++tie) {
      const int64_t index = static_cast<int64_t>(kIndexMask - (*tie & kIndexMask));
      ties_[index / 64] |= uint64_t{1} << index % 64;
    }
    for (int64_t word = 0; keys < end; ++word) {
      for (uint64_t bits = std::exchange(ties_[word], 0); bits != 0; bits &= bits - 1) {
        *keys++ = value | (kIndexMask - (word * 64 + std::countr_zero(bits)));
      }
    }
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
  T* by_class_;
  uint64_t* ties_;
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
