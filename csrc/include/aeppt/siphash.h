// SipHash-2-4, a keyed hash of 64 bits (Aumasson & Bernstein 2012, "SipHash: a fast short-input
// PRF").
//
// A word is a uint64_t, or a vector of them: then each lane hashes a message of its own. Messages
// come as little-endian words, of which the last holds what is left over and, in its top byte, the
// number of bytes.
#pragma once

#include <cstdint>

#include "aeppt/lanes.h"

namespace aeppt {

struct SipKey {
  uint64_t low, high;
};

namespace AEPPT_VARIANT {

template <typename Word>
class SipHash {
 public:
  AEPPT_DEVICE constexpr explicit SipHash(SipKey key)
      : a_(all(key.low ^ 0x736f6d6570736575)),
        b_(all(key.high ^ 0x646f72616e646f6d)),
        c_(all(key.low ^ 0x6c7967656e657261)),
        d_(all(key.high ^ 0x7465646279746573)) {}

  AEPPT_DEVICE constexpr void absorb(Word word) {
    d_ ^= word;
    mix();
    mix();
    a_ ^= word;
  }
  AEPPT_DEVICE constexpr Word finish() {
    c_ ^= all(0xff);
    for (int i = 0; i < 4; ++i) mix();
    return a_ ^ b_ ^ c_ ^ d_;
  }

 private:
  AEPPT_DEVICE static constexpr Word all(uint64_t value) { return Word{} + value; }
  AEPPT_DEVICE static constexpr Word rotated(Word word, int left) {
    return (word << left) | (word >> (64 - left));
  }
  AEPPT_DEVICE constexpr void mix() {
    a_ += b_, c_ += d_;
    b_ = rotated(b_, 13) ^ a_, d_ = rotated(d_, 16) ^ c_;
    a_ = rotated(a_, 32) + d_, c_ += b_;
    b_ = rotated(b_, 17) ^ c_, d_ = rotated(d_, 21) ^ a_;
    c_ = rotated(c_, 32);
  }

  Word a_, b_, c_, d_;
};

}  // namespace AEPPT_VARIANT
}  // namespace aeppt
