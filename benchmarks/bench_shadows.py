"""64 shadow models one after another and at once: python bench_shadows.py [THREADS].

Networks of 64 inputs, 64 hidden units and 10 classes, each trained for 20 epochs on half of 1000
records. Both ways train the same models and predict all records; the median of three runs counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from aeppt.data import Records
from aeppt.models import predict_probs, train_classifier
from aeppt.models.shadows import model_seed, random_halves, train_shadows

MODELS, HIDDEN, EPOCHS = 64, (64,), 20


def pool() -> Records:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, 64), np.float32)
    return Records(features, rng.integers(0, 10, len(features)), 10)


def one_after_another(records: Records) -> NDArray[np.float32]:
    halves = random_halves(len(records), MODELS, 0)
    networks = (
        train_classifier(records.take(np.flatnonzero(half)), HIDDEN, EPOCHS, model_seed(0, i))
        for i, half in enumerate(halves)
    )
    return np.stack([predict_probs(network, records.features) for network in networks])


def at_once(records: Records) -> NDArray[np.floating]:
    return train_shadows(records, MODELS, HIDDEN, EPOCHS, random_state=0).probs


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    records = pool()
    difference = np.abs(one_after_another(records) - at_once(records)).max()  # and warms both up
    times = [
        (seconds(lambda: one_after_another(records)), seconds(lambda: at_once(records)))
        for _ in range(3)
    ]
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{MODELS} models, {torch.get_num_threads()} threads: {slow:.2f} s one after another,")
    print(f"{fast:.2f} s at once, {slow / fast:.1f} times faster; greatest difference of a")
    print(f"probability {difference:.1e}")


if __name__ == "__main__":
    main()
