// The ranking release of rows in tiles. Included once per instruction set; AEPPT_VARIANT names the
// namespace, so that no two variants share a function.
//
// The rows of a tile stand side by side, one in each lane of a vector: what is done to a row is
// done to sixteen at once, without a word between lanes, so a row's answer does not depend on its
// neighbours. Short rows are ranked so too, by comparing every two classes; long ones are sorted
// one by one, and only hashed side by side.
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

  typedef T Values __attribute__((vector_size(AEPPT_VECTOR_BYTES), may_alias));
  typedef Count Counts __attribute__((vector_size(AEPPT_VECTOR_BYTES), may_alias));
  typedef double Doubles __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef T Narrow __attribute__((vector_size(kWide * sizeof(T)), may_alias));
  typedef uint64_t Words __attribute__((vector_size(AEPPT_VECTOR_BYTES)));
  typedef Words WordsInMemory __attribute__((may_alias));

  void lay_out() {
    const int64_t words = words_of(k_);
    word_ = arena_.take<uint64_t>(words * kRows);
    if (short_) {
      value_ = arena_.take<T>(4 * words * kRows);  // what is beyond a row's end stays zero
      rank_ = arena_.take<Count>(k_ * kRows);
    } else {
      value_ = arena_.take<T>(4 * words + kPadding);
      sorted_ = arena_.take<T>(k_);
      parts_ = arena_.take<uint16_t>(4 * words);
      place_ = arena_.take<int32_t>(std::min(p_.rows, kRows) * (k_ + Order<T>::kSlack));
      keys_ = arena_.take<typename Order<T>::Key>(Order<T>::scratch_keys(k_));
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
    write_messages();
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

  void write_messages() {
    const int64_t words = words_of(k_);
    for (int64_t w = 0; w < words; ++w) {
      const T* const value = value_ + 4 * w * kRows;
      uint64_t* const word = word_ + w * kRows;
      uint32_t part[4][kRows];
      for (int i = 0; i < 4; ++i) {
#pragma omp simd
        for (int64_t r = 0; r < kRows; ++r) part[i][r] = rounded(value[i * kRows + r]);
      }
#pragma omp simd
      for (int64_t r = 0; r < kRows; ++r) {
        word[r] = uint64_t{part[2][r] | part[3][r] << 16} << 32 | (part[0][r] | part[1][r] << 16);
      }
    }
    for (int64_t r = 0; r < kRows; ++r) word_[(words - 1) * kRows + r] |= length_word(k_);
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
      const int64_t words = words_of(k_);
      uint16_t* const parts = parts_;
      lanes_.each(4 * words,
                  [=](int64_t j) { parts[j] = static_cast<uint16_t>(rounded(value[j])); });
      for (int64_t w = 0; w < words; ++w) {
        const uint16_t* const part = parts + 4 * w;
        word_[w * kRows + r] =
            uint64_t{part[3]} << 48 | uint64_t{part[2]} << 32 | uint64_t{part[1]} << 16 | part[0];
      }
      word_[(words - 1) * kRows + r] |= length_word(k_);
    }
  }

  // ---- every row ----

  void hash() {
    const int64_t words = words_of(k_);
    for (int64_t lane = 0; lane < kRows; lane += 2 * kWide) {  // two chains hide their latency
      SipHash<Words> left(p_.key), right(p_.key);
      for (int64_t w = 0; w < words; ++w) {
        const auto* const word = reinterpret_cast<const WordsInMemory*>(word_ + w * kRows + lane);
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
  alignas(64) uint64_t hash_[kRows];
  int32_t codeword_[kRows];
  uint64_t* word_;  // [words][kRows], the messages
  T* value_;
  Count* rank_;
  // Of long rows.
  T* sorted_;
  uint16_t* parts_;
  int32_t* place_;
  typename Order<T>::Key* keys_;
  Order<T> order_;
};

template <typename T>
void release_blocks(const Release<T>& release, RowQueue& blocks) {
  RowsRelease<T>(release).run(blocks);
}

}  // namespace aeppt::AEPPT_VARIANT
