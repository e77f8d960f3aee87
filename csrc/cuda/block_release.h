// The ranking release of the rows of one block.
//
// A team of lanes loads each row, looks at it, projects it and later ranks it; in between one
// thread hashes it and chooses its codeword, since a hash is one chain. A row's answer depends on
// that row alone.
#pragma once

#include <cstdint>
#include <limits>

#include "aeppt/release.h"
#include "device_lanes.h"
#include "order.h"

namespace aeppt::AEPPT_VARIANT {

// Rows up to here are ranked by comparing every two classes, longer ones are sorted.
constexpr Index kMostCompared = 128;

// f(std::integral_constant<int, lanes>()) for the lanes of a team.
template <typename F>
void with_release_team(int64_t classes, F f) {
  if (classes <= 16) f(std::integral_constant<int, 8>());
  else if (classes <= 256) f(std::integral_constant<int, kWarp>());
  else f(std::integral_constant<int, kThreads>());
}

// What a block keeps of a row, beside its values.
struct ReleaseSlot {
  double first, second;       // the two greatest entries
  double sums[kProjections];  // its projections, with their offsets
  int32_t label;
  int32_t codeword;  // -1 where the row is invalid
};

// Where a block's arrays lie: its rows' and, one byte for each class, the projections' signs.
template <typename T>
struct ReleaseLayout {
  Index row;  // elements of a row; odd, so that threads which read one row each meet no conflict
  int64_t signs_at, row_at, sorted_at, bytes;
  static ReleaseLayout of(int64_t classes, int64_t rows) {
    const auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
    ReleaseLayout layout{};
    layout.row = static_cast<Index>(classes | 1);
    layout.signs_at = aligned(rows * sizeof(ReleaseSlot));
    layout.row_at = aligned(layout.signs_at + classes);
    layout.sorted_at = aligned(layout.row_at + rows * layout.row * sizeof(T));
    const int64_t entries = classes > kMostCompared ? 2 * rows * layout.row : 0;
    layout.bytes = aligned(layout.sorted_at + entries * (sizeof(T) + sizeof(int32_t)));
    return layout;
  }
};

template <typename T, typename Block>
class BlockRelease {
 public:
  using Lanes = typename Block::Lanes;

  AEPPT_DEVICE BlockRelease(const Release<T>& release, const ReleaseLayout<T>& layout, char* memory)
      : p_(release), layout_(layout), memory_(memory), k_(static_cast<Index>(release.classes)) {}

  // Releases a row of each team, from the first row on, and again that many rows further.
  AEPPT_DEVICE void run(int64_t first, int64_t last, int64_t further) const {
    block_.each((k_ + 15) / 16, [&](Index i) { draw_signs(i); });
    for (int64_t row = first; row < last; row += further) {
      const Index count = last - row < Block::kTeams ? last - row : Block::kTeams;
      block_.teams(count, [&](Lanes lanes, Index i) { load(lanes, i, row + i); });
      block_.each(count, [&](Index i) { choose_codeword(i); });
      block_.teams(count, [&](Lanes lanes, Index i) { answer(lanes, i, row + i); });
    }
  }

 private:
  AEPPT_DEVICE ReleaseSlot& slot(Index i) const {
    return reinterpret_cast<ReleaseSlot*>(memory_)[i];
  }
  AEPPT_DEVICE uint8_t* signs() const {
    return reinterpret_cast<uint8_t*>(memory_ + layout_.signs_at);
  }
  AEPPT_DEVICE T* values(Index i) const {
    return reinterpret_cast<T*>(memory_ + layout_.row_at) + int64_t{i} * layout_.row;
  }
  // Two lists of entries for each team: the values of all stand before the classes of all.
  AEPPT_DEVICE Entries<T> entries(Index list) const {
    T* const all = reinterpret_cast<T*>(memory_ + layout_.sorted_at);
    const int64_t first = int64_t{list} * layout_.row;
    return {all + first,
            reinterpret_cast<int32_t*>(all + 2 * int64_t{Block::kTeams} * layout_.row) + first};
  }

  AEPPT_DEVICE void draw_signs(Index i) const {
    uint64_t drawn = signs_of_block(p_.key, static_cast<uint64_t>(i));
    for (Index j = 16 * i; j < 16 * i + 16 && j < k_; ++j, drawn >>= kProjections) {
      signs()[j] = static_cast<uint8_t>(drawn & 15);
    }
  }

  AEPPT_DEVICE void load(Lanes lanes, Index i, int64_t row) const {
    const T* const given = p_.probs + row * p_.row_stride;
    const int64_t stride = p_.column_stride;
    T* const value = values(i);
    lanes.each(k_, [=](Index j) { value[j] = given[j * stride]; });
    const Sums facts = lanes.sums(
        k_, [=](Index j) { return static_cast<double>(value[j]); },
        [=](Index j) { return is_entry(value[j]) ? 0.0 : 1.0; });
    ReleaseSlot found{};
    found.codeword = -1;
    if (facts.second == 0 && is_total(facts.first)) {
      const T first = lanes.max(k_, [=](Index j) { return value[j]; });
      const Index label = lanes.first(k_, [=](Index j) { return value[j] == first; });
      const T second = lanes.max(k_, [=](Index j) { return j == label ? T(0) : value[j]; });
      found = {static_cast<double>(first), static_cast<double>(second), {}, label, 0};
      const uint8_t* const sign = signs();
      AEPPT_UNROLL(2)
      for (int i = 0; i < kProjections; i += 2) {
        const auto projected = [=](Index j, int projection) {
          const int32_t own = steps(value[j]);
          return static_cast<double>(sign[j] >> projection & 1 ? -own : own);
        };
        const Sums two = lanes.sums(
            k_, [=](Index j) { return projected(j, i); },
            [=](Index j) { return projected(j, i + 1); });
        found.sums[i] = two.first + p_.buckets.offset[i];
        found.sums[i + 1] = two.second + p_.buckets.offset[i + 1];
      }
    }
    lanes.each(1, [&](Index) { slot(i) = found; });
  }

  AEPPT_DEVICE void choose_codeword(Index i) const {
    ReleaseSlot& found = slot(i);
    if (found.codeword < 0) return;
    const uint64_t hash = hash_of(found.sums, found.label, p_.buckets.width, p_.key);
    found.codeword = choose(p_, found.first, found.second, found.label, hash);
  }

  AEPPT_DEVICE void answer(Lanes lanes, Index i, int64_t row) const {
    const int32_t codeword = lanes.read(&slot(i)).codeword;
    T* const out = p_.out + row * k_;
    T* const value = values(i);
    Status status = Status::kInvalid;
    if (codeword < 0) {
      lanes.each(k_, [=](Index j) { out[j] = value[j]; });
    } else {
      const T* const word = p_.codebook + int64_t{codeword} * k_;
      const bool changed = k_ <= kMostCompared ? write_compared(lanes, value, word, out)
                                               : write_sorted(lanes, i, value, word, out);
      status = changed ? Status::kSuccess : Status::kUnchanged;
    }
    lanes.each(1, [&](Index) {
      p_.status[row] = static_cast<int8_t>(status);
      p_.codeword[row] = codeword;
    });
  }

  // Each tells whether the row changes.

  AEPPT_DEVICE bool write_compared(Lanes lanes, const T* value, const T* word, T* out) const {
    const Index k = k_;
    return lanes.sum(k, [=](Index j) {
      const T own = value[j];
      Index rank = 0;
      AEPPT_UNROLL(4)
      for (Index other = 0; other < k; ++other) {
        rank += value[other] > own || (value[other] == own && other < j) ? 1 : 0;
      }
      out[j] = word[rank];
      return word[rank] != own ? 1.0 : 0.0;
    }) > 0;
  }

  AEPPT_DEVICE bool write_sorted(Lanes lanes, Index i, T* value, const T* word, T* out) const {
    const Entries<T> sorted = entries(2 * i);
    RankOrder<T, Lanes>(lanes, k_, entries(2 * i + 1)).sort(value, sorted, false);
    const double changed =
        lanes.sum(k_, [=](Index r) { return word[r] != value[sorted.index[r]] ? 1.0 : 0.0; });
    lanes.each(k_, [=](Index r) { value[sorted.index[r]] = word[r]; });
    lanes.each(k_, [=](Index j) { out[j] = value[j]; });
    return changed > 0;
  }

  const Release<T>& p_;
  const ReleaseLayout<T>& layout_;
  char* const memory_;
  const Index k_;
  const Block block_{};
};

}  // namespace aeppt::AEPPT_VARIANT
