// The ranking release of rows in tiles. Included once per instruction set; AEPPT_VARIANT names the
// namespace, so that no two variants share a function.
//
// The rows of a tile stand side by side, one in each lane of a vector: what is done to a row is
// done to sixteen at once, without a word between lanes, so a row's answer does not depend on its
// neighbours. Short rows are ranked so too, by comparing every two classes; long ones are sorted
// and projected one by one, and only hashed side by side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "aeppt/release.h"
#include "arena.h"
#include "order.h"
#include "release_variants.h"

namespace aeppt::AEPPT_VARIANT {

template <typename T>
class RowsRelease {
 public:
  explicit RowsRelease(const Release<T>& release)
      : p_(release), k_(release.classes), short_(k_ <= kLongestShort) {
    lay_out();
    arena_.allocate();
    lay_out();
    if (!short_) order_ = Order<T>(static_cast<int32_t>(k_), keys_);
    draw_signs();
  }

  void run(RowQueue& blocks) {
    const int64_t size = rows_of_block(k_);
    while (true) {
      blocks.look_for_signals();
      const int64_t first = blocks.take() * size;
      if (first >= p_.rows) return;
      const int64_t last = std::min(first + size, p_.rows);
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t count = std::min(last - row, kRows);
        if (short_) rank(row, count);
        else sort(row, count);
        write_messages();
        hash();
        for (int64_t r = 0; r < count; ++r) codeword_[r] = codeword(r);
        for (int64_t r = 0; r < count; ++r) answer(row + r, r);
      }
    }
  }

 private:
  static constexpr int64_t kRows = 16;  // of a tile
  // Comparing every two classes is faster than the sort up to about here.
  static constexpr int64_t kLongestShort = AEPPT_VECTOR_BYTES * (AEPPT_VECTOR_BYTES == 64 ? 6 : 8);
  using Count = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  static constexpr int64_t kLanes = AEPPT_VECTOR_BYTES / sizeof(T);
  static constexpr int64_t kWide = AEPPT_VECTOR_BYTES / sizeof(double);

  static constexpr int64_t kInts = AEPPT_VECTOR_BYTES / sizeof(int32_t);

  typedef T Values __attribute__((vector_size(AEPPT_VECTOR_BYTES), may_alias));
  typedef Count Counts __attribute__((vector_size(AEPPT_VECTOR_BYTES), may_alias));
  typedef double Doubles __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef T Narrow __attribute__((vector_size(kWide * sizeof(T)), may_alias));
  typedef uint64_t Words __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef Words WordsInMemory __attribute__((may_alias));
  typedef int32_t Ints __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef int32_t IntInMemory __attribute__((may_alias));
  typedef float Floats __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef T Given __attribute__((vector_size(kInts * sizeof(T)), may_alias));  // kInts of them

  void lay_out() {
    minus_ = arena_.take<int32_t>(kProjections * k_);
    if (short_) {
      value_ = arena_.take<T>(k_ * kRows);
      rank_ = arena_.take<Count>(k_ * kRows);
    } else {
      value_ = arena_.take<T>(k_ + kPadding);
      sorted_ = arena_.take<T>(k_);
      place_ = arena_.take<int32_t>(std::min(p_.rows, kRows) * (k_ + Order<T>::kSlack));
      keys_ = arena_.take<typename Order<T>::Key>(Order<T>::scratch_keys(k_));
    }
  }

  // Of each projection and class: -1 where it counts negative.
  int32_t* minus(int projection) const { return minus_ + projection * k_; }

  void draw_signs() {
    for (int64_t first = 0; first < k_; first += 16) {
      uint64_t signs = signs_of_block(p_.key, first / 16);
      for (int64_t j = first; j < std::min(first + 16, k_); ++j) {
        for (int i = 0; i < kProjections; ++i, signs >>= 1) {
          minus(i)[j] = -static_cast<int32_t>(signs & 1);
        }
      }
    }
  }

  // ---- short rows, side by side: value_ and rank_ [k][kRows] ----

  void rank(int64_t row, int64_t count) {
    for (int64_t r = 0; r < kRows; ++r) {
      const T* const given = p_.probs + (row + std::min(r, count - 1)) * p_.row_stride;
      for (int64_t j = 0; j < k_; ++j) value_[j * kRows + r] = given[j * p_.column_stride];
    }
    for (int64_t lane = 0; lane < kRows; lane += kLanes) {
      look(lane);
      count_greater(value_ + lane, rank_ + lane);
    }
    for (int64_t lane = 0; lane < kRows; lane += kInts) project(lane);
  }

  // The facts of the rows in kLanes lanes: sums in double, kWide of them to a vector.
  void look(int64_t lane) {
    Values first{}, second{};
    Counts label{}, wrong{};
    Doubles sum[kLanes / kWide] = {};
    for (int64_t j = 0; j < k_; ++j) {
      const T* const at = value_ + j * kRows + lane;
      const Values x = *reinterpret_cast<const Values*>(at);
#pragma GCC unroll 2
      for (int64_t part = 0; part < kLanes / kWide; ++part) {
        sum[part] += __builtin_convertvector(reinterpret_cast<const Narrow*>(at)[part], Doubles);
      }
      wrong |= ~((x >= 0) & (x < std::numeric_limits<T>::infinity()));
      const Counts leads = x > first;
      const Values lesser = leads ? first : x;
      label = leads ? Counts{} + static_cast<Count>(j) : label;
      first = leads ? x : first;
      second = lesser > second ? lesser : second;
    }
    for (int64_t r = 0; r < kLanes; ++r) {
      facts_[lane + r] = {first[r], second[r], static_cast<int32_t>(label[r]),
                          wrong[r] == 0 && is_total(sum[r / kWide][r % kWide])};
    }
  }

  // The projections of the rows in kInts lanes.
  void project(int64_t lane) {
    const Ints least = Ints{} + kLeastBits;
    Ints all{}, negative[kProjections] = {};
    for (int64_t j = 0; j < k_; ++j) {
      const Given given = *reinterpret_cast<const Given*>(value_ + j * kRows + lane);
      const Ints bits = (Ints) __builtin_convertvector(given, Floats);
      const Ints own = ((bits > least ? bits : least) - least) >> kDroppedBits;
      all += own;
#pragma GCC unroll 4
      for (int i = 0; i < kProjections; ++i) negative[i] += own & minus(i)[j];
    }
    for (int i = 0; i < kProjections; ++i) {
      const Ints sum = all - 2 * negative[i];
      const auto* const one = reinterpret_cast<const IntInMemory*>(&sum);
#pragma omp simd
      for (int64_t r = 0; r < kInts; ++r) sum_[i][lane + r] = one[r];
    }
  }

  // The rank of each class: of two classes the greater stands before the other, of equals the
  // first. Every class is first taken to stand after all that follow it, and each comparison that
  // says otherwise moves one up and the other down.
  void count_greater(const T* value, Count* rank) const {
    const auto values = [=](int64_t j) -> const Values& {
      return *reinterpret_cast<const Values*>(value + j * kRows);
    };
    const auto counts = [=](int64_t j) -> Counts& {
      return *reinterpret_cast<Counts*>(rank + j * kRows);
    };
    for (int64_t j = 0; j < k_; ++j) counts(j) = Counts{} + static_cast<Count>(k_ - 1 - j);
    constexpr int kTogether = AEPPT_VECTOR_BYTES == 64 ? 8 : 4;  // classes kept in registers
    int64_t i = 0;
    for (; i + kTogether <= k_; i += kTogether) {
      Values own[kTogether];
      Counts own_rank[kTogether];
#pragma GCC unroll 8
      for (int b = 0; b < kTogether; ++b) own[b] = values(i + b), own_rank[b] = counts(i + b);
#pragma GCC unroll 8
      for (int b = 0; b < kTogether; ++b) {
#pragma GCC unroll 8
        for (int c = b + 1; c < kTogether; ++c) compare(own[b], own_rank[b], own[c], own_rank[c]);
      }
      for (int64_t j = i + kTogether; j < k_; ++j) {
        const Values other = values(j);
        Counts other_rank = counts(j);
#pragma GCC unroll 8
        for (int b = 0; b < kTogether; ++b) compare(own[b], own_rank[b], other, other_rank);
        counts(j) = other_rank;
      }
#pragma GCC unroll 8
      for (int b = 0; b < kTogether; ++b) counts(i + b) = own_rank[b];
    }
    for (; i < k_; ++i) {
      for (int64_t j = i + 1; j < k_; ++j) compare(values(i), counts(i), values(j), counts(j));
    }
  }

  static void compare(const Values& before, Counts& before_rank, const Values& after,
                      Counts& after_rank) {
#if AEPPT_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      const __m512i one = _mm512_set1_epi32(1);
      const __mmask16 kept = _mm512_cmp_ps_mask(before, after, _CMP_GE_OQ);
      before_rank =
          (Counts)_mm512_mask_sub_epi32((__m512i)before_rank, kept, (__m512i)before_rank, one);
      after_rank =
          (Counts)_mm512_mask_add_epi32((__m512i)after_rank, kept, (__m512i)after_rank, one);
      return;
    }
#endif
    const Counts kept = before >= after;  // -1 where it holds
    before_rank += kept;
    after_rank -= kept;
  }

  // ---- long rows, one by one: their orders are kept ----

  int32_t* order_of(int64_t r) const { return place_ + r * (k_ + Order<T>::kSlack); }

  void sort(int64_t row, int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      const T* const given = p_.probs + (row + r) * p_.row_stride;
      T* const value = value_;
      const int64_t stride = p_.column_stride;
      if (stride == 1) std::copy_n(given, k_, value);
      else lanes_.each(k_, [=](int64_t j) { value[j] = given[j * stride]; });
      const Sums sums = lanes_.sums(
          k_, [=](int64_t j) { return static_cast<double>(value[j]); },
          [=](int64_t j) { return is_entry(value[j]) ? 0.0 : 1.0; });
      facts_[r].valid = sums.second == 0 && is_total(sums.first);
      if (!facts_[r].valid) continue;
      int32_t* const order = order_of(r);
      order_.sort(value, order, sorted_);
      facts_[r] = {sorted_[0], sorted_[1], order[0], true};
      project_alone(r);
    }
  }

  // The projections of the row in value_.
  void project_alone(int64_t r) {
    constexpr int64_t kMost = 1 << 14;  // whose sum an int32_t holds
    for (int i = 0; i < kProjections; ++i) sum_[i][r] = 0;
    for (int64_t first = 0; first < k_; first += kMost) {
      const int64_t last = std::min(first + kMost, k_);
      const T* const value = value_;
      const int32_t *const minus0 = minus(0), *const minus1 = minus(1);
      const int32_t *const minus2 = minus(2), *const minus3 = minus(3);
      int32_t all = 0, negative0 = 0, negative1 = 0, negative2 = 0, negative3 = 0;
#pragma omp simd reduction(+ : all, negative0, negative1, negative2, negative3)
      for (int64_t j = first; j < last; ++j) {
        const int32_t own = steps(value[j]);
        all += own;
        negative0 += own & minus0[j];
        negative1 += own & minus1[j];
        negative2 += own & minus2[j];
        negative3 += own & minus3[j];
      }
      const int32_t negative[] = {negative0, negative1, negative2, negative3};
      for (int i = 0; i < kProjections; ++i) sum_[i][r] += all - 2 * negative[i];
    }
  }

  // ---- every row ----

  void write_messages() {
    const Buckets& cut = p_.buckets;
    const auto at = [&](int i, int64_t r) { return bucket(sum_[i][r] + cut.offset[i], cut.width); };
#pragma omp simd
    for (int64_t r = 0; r < kRows; ++r) {
      word_[0][r] = at(0, r) | at(1, r) << 32;
      word_[1][r] = at(2, r) | at(3, r) << 32;
    }
    for (int64_t r = 0; r < kRows; ++r) word_[2][r] = label_word(facts_[r].label);
  }

  void hash() {
    for (int64_t lane = 0; lane < kRows; lane += 2 * kWide) {  // two chains hide their latency
      SipHash<Words> left(p_.key), right(p_.key);
      for (const auto& of_rows : word_) {
        const auto* const word = reinterpret_cast<const WordsInMemory*>(of_rows + lane);
        left.absorb(word[0]);
        right.absorb(word[1]);
      }
      auto* const hash = reinterpret_cast<WordsInMemory*>(hash_ + lane);
      hash[0] = left.finish();
      hash[1] = right.finish();
    }
  }

  // -1 where the row is invalid. Apart from answer(), so that the rows' searches overlap.
  int32_t codeword(int64_t r) const {
    const Facts& facts = facts_[r];
    if (!facts.valid) return -1;
    return choose(p_, facts.first, facts.second, facts.label, hash_[r]);
  }

  void answer(int64_t row, int64_t r) const {
    const T* const given = p_.probs + row * p_.row_stride;
    T* const out = p_.out + row * k_;
    p_.codeword[row] = codeword_[r];
    if (codeword_[r] < 0) {
      for (int64_t j = 0; j < k_; ++j) out[j] = given[j * p_.column_stride];
      p_.status[row] = static_cast<int8_t>(Status::kInvalid);
      return;
    }
    const T* const word = p_.codebook + codeword_[r] * k_;
    if (short_) {
      for (int64_t j = 0; j < k_; ++j) out[j] = word[rank_[j * kRows + r]];
    } else {
      const int32_t* const order = order_of(r);
      for (int64_t i = 0; i < k_; ++i) out[order[i]] = word[i];
    }
    bool changed = false;
    for (int64_t j = 0; j < k_ && !changed; ++j) changed = out[j] != given[j * p_.column_stride];
    p_.status[row] = static_cast<int8_t>(changed ? Status::kSuccess : Status::kUnchanged);
  }

  struct Facts {
    T first, second;  // the two greatest entries
    int32_t label;
    bool valid;
  };

  static constexpr int64_t kPadding = 16;  // what SimdLanes may read beyond a row

  const Release<T>& p_;
  const int64_t k_;
  const bool short_;
  const SimdLanes lanes_{};
  Arena arena_;
  Facts facts_[kRows] = {};
  alignas(64) double sum_[kProjections][kRows] = {};
  alignas(64) uint64_t word_[kMessageWords][kRows];  // the messages
  alignas(64) uint64_t hash_[kRows];
  int32_t codeword_[kRows];
  int32_t* minus_;
  T* value_;
  Count* rank_;
  // Of long rows.
  T* sorted_;
  int32_t* place_;
  typename Order<T>::Key* keys_;
  Order<T> order_;
};

template <typename T>
void release_blocks(const Release<T>& release, RowQueue& blocks) {
  RowsRelease<T>(release).run(blocks);
}

}  // namespace aeppt::AEPPT_VARIANT
