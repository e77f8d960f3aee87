"""What PrivacyFunnel's codewords tell of one record whose row was released under several keys.

An attacker who knows the map and all distributions, but not the true label, sees one codeword per
key. On the rows that the defense was fitted on, its balanced accuracy is 1/2 + ``advantage`` with
one key; with ever more keys it learns which row of the map
the record has. Prints the table in ``docs/keys.md``::

    python benchmarks/key_rotation.py
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from aeppt import PrivacyFunnel
from aeppt.data import load_digits, split_records
from aeppt.evaluation.demonstration import SETUPS, predictions_on
from aeppt.models import train_classifier
from aeppt_ext.release import cells

KEYS = (1, 2, 5, 10, 100, 365)
RECORDS = 200_000


def best_accuracies(
    chances: NDArray[np.float64], is_member: NDArray[np.bool_], seed: int = 0
) -> list[float]:
    """The best attacker's balanced accuracy with each number of ``KEYS``, and with ever more.

    ``chances`` [n, A] are each row's chances of the codewords. Records are drawn from either side
    alike, and the attacker guesses the likelier side from how often each codeword came; ever more
    keys tell it the row of ``chances``.
    """
    rng = np.random.default_rng(seed)
    maps, of_row = np.unique(chances, axis=0, return_inverse=True)
    counts = [np.bincount(of_row[side], minlength=len(maps)) for side in (is_member, ~is_member)]
    members, others = (count / count.sum() for count in counts)
    found = []
    for keys in KEYS:
        drawn = rng.choice(len(maps), RECORDS, p=(members + others) / 2)
        seen = rng.multinomial(keys, maps[drawn] / maps[drawn].sum(axis=1, keepdims=True))
        likelihood = seen @ np.log(maps.clip(1e-300)).T
        apart = _log_sum(likelihood, members) - _log_sum(likelihood, others)
        # The chance of being right at what was seen, from the chances of either side there.
        found.append(float(expit(np.abs(apart)).mean()))
    return [*found, 0.5 + float(np.abs(members - others).sum()) / 4]


def _log_sum(likelihood: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = logsumexp(likelihood, axis=1, b=shares)
    return total


def main() -> None:
    """Train on digits as the demonstration does, fit, and print the table."""
    setup = SETUPS["digits"]
    split = split_records(load_digits(), setup.members, setup.shadow_members, random_state=0)
    model = train_classifier(split.members, setup.hidden, setup.epochs, random_state=0)
    known = predictions_on(model, split.members, split.known_non_members)
    module = PrivacyFunnel(random_state=0).fit_predictions(known).module_
    rows = torch.from_numpy(known.probs)
    cell = cells(rows, module.confidence_edges, module.shape_edges)
    chances = module.cumulative.diff(dim=2, prepend=torch.zeros_like(module.cumulative[:, :, :1]))
    of_row = chances[module.map_of_class[rows.argmax(1)], cell].numpy()
    accuracies = best_accuracies(of_row, known.is_member)
    print("| keys | balanced accuracy |\n| --- | --- |")
    for keys, accuracy in zip([*KEYS, "ever more"], accuracies, strict=True):
        print(f"| {keys} | {100 * accuracy:.1f} % |")


if __name__ == "__main__":
    main()
