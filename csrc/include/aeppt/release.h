// The release of a row's ranking and of one codeword, for every engine: what a release is asked,
// what of a row is hashed, and which codeword it gets. aeppt_ext/release.py says what the tables
// mean.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "aeppt/lanes.h"
#include "aeppt/search.h"
#include "aeppt/siphash.h"

namespace aeppt {

template <typename T>
struct Release {
  int64_t rows, classes;
  const T* probs;  // [rows, classes]
  int64_t row_stride, column_stride;
  int32_t confidences, shapes, maps;  // c, s, m
  const double* confidence_edges;     // [c - 1]
  const double* shape_edges;          // [c, s - 1]
  const int32_t* map_of_class;        // [classes]
  const double* cumulative;           // [m, cells, cells]
  const T* codebook;                  // [cells, classes]
  SipKey key;
  T* out;             // [rows, classes]
  int8_t* status;     // [rows]
  int32_t* codeword;  // [rows]

  constexpr int32_t cells() const { return confidences * shapes; }
};

namespace AEPPT_VARIANT {

// ---- which rows are distributions ----

template <typename T>
AEPPT_DEVICE constexpr bool is_entry(T value) {
  return value >= 0 && value < std::numeric_limits<T>::infinity();
}
AEPPT_DEVICE constexpr bool is_total(double sum) {
  return sum - 1 <= kSumTolerance && 1 - sum <= kSumTolerance;
}

// ---- what is hashed ----

// The exponent and 3 bits of the mantissa, rounded; a negative zero is zero.
template <typename T>
AEPPT_DEVICE constexpr uint32_t rounded(T value) {
  constexpr int kDropped = 20;
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value) + 0.0f);
  return (bits + (1u << (kDropped - 1))) >> kDropped;
}

// A message has 16 bits of each value: four values to a word, and the last word has the length too.
AEPPT_DEVICE constexpr int64_t words_of(int64_t classes) { return classes / 4 + 1; }
AEPPT_DEVICE constexpr uint64_t length_word(int64_t classes) {
  return static_cast<uint64_t>(2 * classes) << 56;
}

template <typename T>
AEPPT_DEVICE constexpr uint64_t hash_of(const T* values, int64_t classes, SipKey key) {
  SipHash<uint64_t> hash(key);
  int64_t j = 0;
  for (; j + 4 <= classes; j += 4) {
    uint64_t word = 0;
    for (int part = 0; part < 4; ++part) word |= uint64_t{rounded(values[j + part])} << 16 * part;
    hash.absorb(word);
  }
  uint64_t last = length_word(classes);
  for (int part = 0; j < classes; ++j, ++part) last |= uint64_t{rounded(values[j])} << 16 * part;
  hash.absorb(last);
  return hash.finish();
}

// ---- which codeword a row gets ----

// How many of n ascending values are at most x: halves until few are left, and counts these.
// Without branches, which chance would mislead.
AEPPT_DEVICE constexpr int32_t count_at_most(const double* values, int32_t n, double x) {
#ifdef __CUDACC__
  constexpr int32_t kFew = 0;
#else
  constexpr int32_t kFew = 32;  // a vector of them at once
#endif
  int32_t first = 0;
  while (n > kFew) {
    const int32_t half = (n + 1) / 2;
    first += values[first + half - 1] <= x ? half : 0;
    n -= half;
  }
  int32_t count = first;
  for (int32_t i = first; i < first + n; ++i) count += values[i] <= x ? 1 : 0;
  return count;
}

// Of a row with these two greatest entries, this label and this hash.
template <typename T>
AEPPT_DEVICE constexpr int32_t choose(const Release<T>& release, double first, double second,
                                      int64_t label, uint64_t hash) {
  const int32_t edges = release.shapes - 1, cells = release.cells();
  const double rest = 1 - first, share = rest > 0 ? second / rest : 0;
  const int32_t i = count_at_most(release.confidence_edges, release.confidences - 1, first);
  const int32_t j = count_at_most(release.shape_edges + int64_t{i} * edges, edges, share);
  const int32_t named = release.map_of_class[label], last = release.maps - 1;
  const int64_t map = named < 0 ? 0 : named > last ? last : named;  // no read outside, ever
  const double uniform = static_cast<double>(hash >> 11) * 0x1p-53;
  const double* const chances =
      release.cumulative + (map * cells + i * release.shapes + j) * int64_t{cells};
  return count_at_most(chances, cells - 1, uniform);
}

}  // namespace AEPPT_VARIANT
}  // namespace aeppt
