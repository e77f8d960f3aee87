// The release of a row's ranking and of one codeword, for every engine: what a release is asked,
// what of a row is hashed, and which codeword it gets. aeppt_ext/release.py says what the tables
// mean.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "aeppt/lanes.h"
#include "aeppt/search.h"
#include "aeppt/siphash.h"

namespace aeppt {

constexpr int kProjections = 4;
constexpr int kDroppedBits = 13;
constexpr int32_t kLeastBits = 0x1f800000;  // of the float 2^-64

// How a row's projections are cut into buckets.
struct Buckets {
  double width;                 // in steps
  double offset[kProjections];  // secret, and so great that no projection falls below zero
};

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
  Buckets buckets;
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
//
// Of a row its label, and of each secret projection of its log-probabilities the bucket in which it
// lies: rows near each other share their draw (docs/design.md). All numbers are integers, so that
// no order of summation shows, also where they stand in doubles.

// Of a probability: the bits of a float are a piecewise linear logarithm, of which this leaves
// 1,024 steps to the doubling. What is below 2^-64 counts as that.
template <typename T>
AEPPT_DEVICE constexpr int32_t steps(T value) {
  const int32_t bits = std::bit_cast<int32_t>(static_cast<float>(value));
  return ((bits > kLeastBits ? bits : kLeastBits) - kLeastBits) >> kDroppedBits;
}

// Four bits for each of the classes 16 · block … 16 · block + 15, from the lowest on: in which
// projections it counts negative. A hash of the 8 bytes of the block's number.
AEPPT_DEVICE constexpr uint64_t signs_of_block(SipKey key, uint64_t block) {
  SipHash<uint64_t> hash(key);
  hash.absorb(block);
  hash.absorb(uint64_t{8} << 56);
  return hash.finish();
}

// On the host. Two doublings wide where there are eight classes or more, a quarter of a doubling
// for each class where there are fewer, and √k times that, as the sum of k differences grows.
inline Buckets buckets_of(SipKey key, int64_t classes) {
  const double k = static_cast<double>(classes), widest = k < 8 ? k : 8;
  const auto width = static_cast<int64_t>(std::sqrt(k * widest * widest * (256 * 256)));
  SipHash<uint64_t> hash(key);
  hash.absorb(0);  // no bytes
  const uint64_t drawn = hash.finish();
  Buckets buckets{static_cast<double>(width), {}};
  for (int i = 0; i < kProjections; ++i) {
    const int64_t share = static_cast<int64_t>(drawn >> 16 * i & 0xffff);  // of 65,536
    buckets.offset[i] = static_cast<double>((share * width >> 16) + (classes << 17));
  }
  return buckets;
}

// A message is four buckets and the label, int32 each.
constexpr int kMessageWords = 3;
AEPPT_DEVICE constexpr uint64_t bucket(double sum, double width) {
  return static_cast<uint32_t>(static_cast<int32_t>(sum / width));  // exact, as both are integers
}
AEPPT_DEVICE constexpr uint64_t label_word(int32_t label) {
  return uint64_t{5 * sizeof(int32_t)} << 56 | static_cast<uint32_t>(label);
}

// Of a row with these projections, to which their offsets have been added.
AEPPT_DEVICE constexpr uint64_t hash_of(const double* sums, int32_t label, double width,
                                        SipKey key) {
  SipHash<uint64_t> hash(key);
  hash.absorb(bucket(sums[0], width) | bucket(sums[1], width) << 32);
  hash.absorb(bucket(sums[2], width) | bucket(sums[3], width) << 32);
  hash.absorb(label_word(label));
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
                                      int32_t label, uint64_t hash) {
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
