// A vectorisable exp, so that a whole row is raised in one pass.
//
// e^x = 2^n e^r with |r| <= ln(2) / 2; e^r by its Taylor polynomial, whose remainder is below the
// rounding of T. Written without branches, for the compiler to vectorise the caller's loop.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "aeppt/lanes.h"

namespace aeppt::AEPPT_VARIANT {

template <typename T>
AEPPT_DEVICE inline T exponential(T x) {
  constexpr bool is_float = sizeof(T) == 4;
  using Bits = std::conditional_t<is_float, int32_t, int64_t>;
  constexpr int kMantissa = is_float ? 23 : 52, kBias = is_float ? 127 : 1023;
  constexpr int kDegree = is_float ? 7 : 13;
  constexpr T kLimit = is_float ? T(87) : T(708);  // results stay normal numbers
  constexpr T kLog2High = is_float ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T kLog2Low = is_float ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);

  x = x < -kLimit ? -kLimit : x;
  x = x > kLimit ? kLimit : x;
  // Adding and subtracting 1.5 * 2^mantissa rounds to the nearest integer.
  constexpr T kRound = is_float ? T(12582912) : T(6755399441055744);
  const T n = (x * T(1.44269504088896340736) + kRound) - kRound;
  const T r = (x - n * kLog2High) - n * kLog2Low;
  T sum = 1;
  AEPPT_UNROLL(16)
  for (int i = kDegree; i >= 1; --i) sum = 1 + sum * r * (T(1) / T(i));
  const Bits scale = (static_cast<Bits>(n) + kBias) << kMantissa;
  T power;
  std::memcpy(&power, &scale, sizeof power);
  return sum * power;
}

}  // namespace aeppt::AEPPT_VARIANT
