// exp and log that vectorise, so that a whole row is raised in one pass, and that are the same to
// the last bit on every device.
//
// e^x = 2^n e^r with |r| <= ln(2) / 2; e^r by its Taylor polynomial, whose remainder is below the
// rounding of T. log(2^n m) = n ln(2) + 2 artanh(s), s = (m - 1) / (m + 1), with m between
// 1/sqrt(2) and sqrt(2); artanh by its series, likewise. Written without branches, for the compiler
// to vectorise the caller's loop.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "aeppt/lanes.h"

namespace aeppt::AEPPT_VARIANT {

template <typename T>
struct FloatFormat {
  static constexpr bool kFloat = sizeof(T) == 4;
  using Bits = std::conditional_t<kFloat, int32_t, int64_t>;
  static constexpr int kMantissa = kFloat ? 23 : 52, kBias = kFloat ? 127 : 1023;
  // ln(2) in two parts, the first with few bits.
  static constexpr T kLog2High = kFloat ? T(0.693359375) : T(6.93147180369123816490e-01);
  static constexpr T kLog2Low = kFloat ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
};

template <typename T>
AEPPT_DEVICE inline T exponential(T x) {
  using F = FloatFormat<T>;
  using Bits = typename F::Bits;
  constexpr bool is_float = F::kFloat;
  constexpr int kDegree = is_float ? 7 : 13;
  constexpr double kLastCoefficient = 1 / (is_float ? 5040.0 : 6227020800.0);  // 1 / kDegree!
  constexpr T kLimit = is_float ? T(87) : T(708);  // results stay normal numbers

  x = x < -kLimit ? -kLimit : x;
  x = x > kLimit ? kLimit : x;
  // Adding and subtracting 1.5 * 2^mantissa rounds to the nearest integer.
  constexpr T kRound = is_float ? T(12582912) : T(6755399441055744);
  const T n = (x * T(1.44269504088896340736) + kRound) - kRound;
  const T r = (x - n * F::kLog2High) - n * F::kLog2Low;
  double coefficient = kLastCoefficient;
  T sum = static_cast<T>(coefficient);
  AEPPT_UNROLL(16)
  for (int i = kDegree; i >= 1; --i) {
    coefficient *= i;  // 1 / (i - 1)!, known to the compiler
    sum = static_cast<T>(coefficient) + sum * r;
  }
  const Bits scale = (static_cast<Bits>(n) + F::kBias) << F::kMantissa;
  T power;
  std::memcpy(&power, &scale, sizeof power);
  return sum * power;
}

// Of a positive normal number.
template <typename T>
AEPPT_DEVICE inline T logarithm(T x) {
  using F = FloatFormat<T>;
  using Bits = typename F::Bits;
  constexpr int kTerms = F::kFloat ? 5 : 11;
  constexpr T kRoot = T(1.41421356237309504880);

  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  const Bits exponent = (bits >> F::kMantissa) - F::kBias;
  bits -= exponent * (Bits(1) << F::kMantissa);
  T m;
  std::memcpy(&m, &bits, sizeof m);
  const bool large = m > kRoot;
  m = large ? m / 2 : m;
  const T n = static_cast<T>(exponent) + (large ? T(1) : T(0));
  const T s = (m - 1) / (m + 1), square = s * s;
  T sum = 0;
  AEPPT_UNROLL(16)
  for (int i = kTerms; i >= 1; --i) sum = square * (T(1) / T(2 * i + 1) + sum);
  return n * F::kLog2High + (2 * s + (2 * s * sum + n * F::kLog2Low));
}

}  // namespace aeppt::AEPPT_VARIANT
