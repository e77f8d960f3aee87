// Exact Euclidean projection onto {q >= 0, sum q = 1, q_label >= q_j + tie_gap for all other j}.
//
// It is the projection onto the label's constraint followed by the one onto the simplex; that the
// two in sequence are the joint projection is proved in docs/design.md. Each is the root of a
// piecewise linear function, found by Newton's method from the left, which ends after finitely many
// rounds at the exact root (Michelot 1986 for the simplex). Sums are taken in double, and the roots
// are rounded to 2^-44: engines that add in another order then still get the same root, and so the
// same order of entries that a step has made equal.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "aeppt/lanes.h"

namespace aeppt::AEPPT_VARIANT {

AEPPT_DEVICE inline double round_root(double root) {
  return std::nearbyint(root * 0x1p44) * 0x1p-44;
}

// y[j] * scale becomes its projection. `on_simplex`: these are not negative and sum to one, but for
// noise; then the first of the two is all, since it leaves the sum as it is.
template <typename T, typename Lanes>
AEPPT_DEVICE void retract(Lanes lanes, T* y, Index k, Index label, double tie_gap, T scale = 1,
                          bool on_simplex = false) {
  T top = lanes.read(y + label) * scale;
  const double floor = static_cast<double>(top) - tie_gap;
  const double noise = 2 * std::numeric_limits<T>::epsilon();
  if (!on_simplex) {
    const Sums facts = lanes.sums(
        k, [=](Index j) { return static_cast<double>(y[j]); },
        [=](Index j) { return y[j] < 0 ? 1.0 : 0.0; });
    on_simplex = facts.second == 0 && std::fabs(facts.first - 1) <= noise;
  }
  // The label is set apart: the passes below run over the others.
  lanes.each(1, [=](Index) { y[label] = -std::numeric_limits<T>::infinity(); });

  // cap: the value down to which greater entries are pulled; the label becomes cap + tie_gap. In a
  // row that was sorted before its last step they are few, and first: none lies at `reach` or
  // beyond.
  T below = static_cast<T>(floor);
  if (below > floor) below = std::nextafter(below, -std::numeric_limits<T>::infinity());
  const Index reach = lanes.last(k, [=](Index j) { return (y[j] *= scale) > below; });
  const auto next_cap = [=](double cap) {
    const Sums above = lanes.sums(
        reach, [=](Index j) { return y[j] > cap ? static_cast<double>(y[j]) : 0.0; },
        [=](Index j) { return y[j] > cap ? 1.0 : 0.0; });
    return (floor + above.first) / (1 + above.second);
  };
  double cap = floor;
  if (reach > 0) {
    for (double next; (next = next_cap(cap)) > cap;) cap = next;
  }
  cap = round_root(cap);
  if (on_simplex) {
    if (reach > 0) {
      const T highest = static_cast<T>(cap);
      lanes.each_padded(reach, [=](Index j) { y[j] = y[j] < highest ? y[j] : highest; });
      top = static_cast<T>(cap + tie_gap);
    }
    lanes.each(1, [=](Index) { y[label] = top; });
    return;
  }

  // tau: what every positive entry gives up so that they sum to one. From 0, a good guess, the
  // first round may go down; it ends left of the root.
  double active = 0;
  const auto next_tau = [=, &active](double tau) {
    const auto capped = [=](Index j) {
      const double value = y[j];
      return value < cap ? value : cap;
    };
    const Sums kept = lanes.sums(
        k, [=](Index j) { return capped(j) > tau ? capped(j) : 0.0; },
        [=](Index j) { return capped(j) > tau ? 1.0 : 0.0; });
    active = 1 + kept.second;
    return (kept.first + cap + tie_gap - 1) / active;
  };
  double tau = next_tau(0);
  for (double next; (next = next_tau(tau)) > tau;) tau = next;
  tau = round_root(tau);
  // Where the sum is one to the rounding of T, tau is noise, and would swallow tiny entries.
  if (std::fabs(tau) * active <= noise) tau = 0;

  // Subtracted before it is rounded: a rounded tau would be wrong by the same amount k times.
  lanes.each_padded(k, [=](Index j) {
    const double value = y[j];
    const double rest = (value < cap ? value : cap) - tau;
    y[j] = rest > 0 ? static_cast<T>(rest) : T(0);
  });
  lanes.each(1, [=](Index) { y[label] = static_cast<T>(cap + tie_gap - tau); });
}

}  // namespace aeppt::AEPPT_VARIANT
