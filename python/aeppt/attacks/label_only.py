"""Attacks that see nothing of an answer but its label, and ask how firmly it holds nearby.

A model keeps the label of its members under greater changes than that of other records. No defense
that keeps the labels of all queries can change what these attacks see.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression

from aeppt.attacks.base import QueriedModel, QueryAttack, best_threshold
from aeppt.attacks.queries import answers

#: Records [n, ...] to changed copies of all of them, each [n, ...], one copy after the other.
Augmentation = Callable[[NDArray[np.floating], np.random.Generator], Iterable[NDArray[np.floating]]]


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Copies with Gaussian noise, for feature vectors.

    Parameters
    ----------
    scales : sequence of float or array
        Standard deviations of the noise, in the features' units; each may be an array with one per
        feature.
    copies : int
        Copies per scale.
    """

    scales: Sequence[ArrayLike]
    copies: int = 10

    def __post_init__(self) -> None:
        _check_strengths(self.scales, "scales", np.inf, self.copies)

    def __call__(
        self, features: NDArray[np.floating], rng: np.random.Generator
    ) -> Iterator[NDArray[np.floating]]:
        """All copies of the first scale, then those of the next."""
        for scale in self.scales:
            for _ in range(self.copies):
                noise = np.asarray(scale) * rng.standard_normal(features.shape)
                yield (features + noise).astype(features.dtype)


@dataclass(frozen=True, eq=False)
class BernoulliFlips:
    """Copies in which each feature is flipped with some probability, for features of 0 and 1.

    Parameters
    ----------
    rates : sequence of float
        Probabilities of a flip, in (0, 1].
    copies : int
        Copies per rate.
    """

    rates: Sequence[float]
    copies: int = 10

    def __post_init__(self) -> None:
        _check_strengths(self.rates, "rates", 1, self.copies)

    def __call__(
        self, features: NDArray[np.floating], rng: np.random.Generator
    ) -> Iterator[NDArray[np.floating]]:
        """All copies of the first rate, then those of the next."""
        wrong = np.argwhere((features != 0) & (features != 1))
        if len(wrong):
            raise ValueError(
                f"features row {wrong[0][0]} holds {features[tuple(wrong[0])]}: only 0 and 1 can "
                "be flipped; use GaussianNoise"
            )
        for rate in self.rates:
            for _ in range(self.copies):
                yield np.where(rng.random(features.shape) < rate, 1 - features, features)


@dataclass(frozen=True, eq=False)
class ShiftsAndMirror:
    """The mirrored image and all shifts by some pixels, for images [n, c, h, w].

    As in Choquette-Choo et al. 2021, the shifts are those by i rows and j columns with
    |i| + |j| = ``pixels``. What moves in is a repetition of the border.

    Parameters
    ----------
    pixels : int
        How far the shifts go; there are four times as many.
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"pixels must be at least 1, got {self.pixels}")

    def __call__(
        self, features: NDArray[np.floating], rng: np.random.Generator
    ) -> Iterator[NDArray[np.floating]]:
        """The mirrored images, then one shift of all images after the other; ``rng`` is unused."""
        if features.ndim != 4 or min(features.shape[2:]) <= self.pixels:
            raise ValueError(
                f"features must be images [n, c, h, w] of more than {self.pixels} pixels a side, "
                f"got {features.shape}"
            )
        yield features[..., ::-1]
        reach, (height, width) = self.pixels, features.shape[2:]
        padded = np.pad(features, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
        for down in range(-reach, reach + 1):
            across = reach - abs(down)
            for right in sorted({-across, across}):
                top, left = reach - down, reach - right
                yield padded[..., top : top + height, left : left + width]


def default_augmentation(features: NDArray[np.floating]) -> Augmentation:
    """A choice by the shape and the values of ``features``.

    Arrays with four axes are images: the mirrored one and shifts by one pixel. Features that are
    all 0 or 1 are flipped, at rates of 1, 3 and 10 per cent. Others get Gaussian noise of 0.1, 0.3
    and 1 times each feature's standard deviation. Flips and noise have ten copies per strength.

    Raises
    ------
    ValueError
        The features are neither images nor binary, and all records are the same.
    """
    if features.ndim == 4:
        return ShiftsAndMirror()
    if ((features == 0) | (features == 1)).all():
        return BernoulliFlips((0.01, 0.03, 0.1))
    spread = features.std(axis=0)
    return GaussianNoise((0.1 * spread, 0.3 * spread, spread))


class AugmentationAttack(QueryAttack):
    """Choquette-Choo et al. 2021 (ICML): on which changed copies the label is right.

    A logistic regression, trained on the shadow model with both sides weighted alike, sees one 0 or
    1 for the record and for each copy: whether its predicted label is the record's true class. A
    record costs one query more than it has copies.

    Parameters
    ----------
    augmentation : callable, optional
        Makes the copies; unless given, :func:`default_augmentation` of the shadow's features.
    random_state : int
    """

    name = "augmentation (label only)"

    def __init__(self, augmentation: Augmentation | None = None, random_state: int = 0) -> None:
        self.augmentation = augmentation
        self.random_state = random_state

    def run(
        self, shadow: QueriedModel, targets: Sequence[QueriedModel]
    ) -> list[NDArray[np.float64]]:
        """The logistic regression's log-odds of "member"."""
        augmentation = self.augmentation or default_augmentation(shadow.features)
        classifier = LogisticRegression(class_weight="balanced")
        classifier.fit(_right_on_copies(shadow, augmentation, self.random_state), shadow.is_member)
        return [
            classifier.decision_function(
                _right_on_copies(target, augmentation, self.random_state)
            ).astype(np.float64)
            for target in targets
        ]


class DistanceAttack(QueryAttack):
    """Compares how far a record is from another label with a threshold set on the shadow model.

    A record whose own predicted label is wrong has distance 0 (Choquette-Choo et al. 2021). The
    threshold is the one with the best balanced accuracy.
    """

    @abstractmethod
    def distance(self, model: QueriedModel, shadow: QueriedModel) -> NDArray[np.float64]:
        """How far each record [n] of ``model`` is from another label, on any scale.

        The shadow's records tell what records look like; ``model`` may be the shadow itself.
        """

    def run(
        self, shadow: QueriedModel, targets: Sequence[QueriedModel]
    ) -> list[NDArray[np.float64]]:
        """The distance beyond the threshold."""
        threshold = best_threshold(self.distance(shadow, shadow), shadow.is_member)
        return [self.distance(target, shadow) - threshold for target in targets]


class NoiseRobustnessAttack(DistanceAttack):
    """Choquette-Choo et al. 2021 (ICML): the share of noisy copies that keep a right label.

    A cheap stand-in for the distance from another label. A record costs one query more than it has
    copies.

    Parameters
    ----------
    augmentation : callable, optional
        Makes the copies; unless given, :func:`default_augmentation` of the shadow's features.
    random_state : int
    """

    name = "noise robustness (label only)"

    def __init__(self, augmentation: Augmentation | None = None, random_state: int = 0) -> None:
        self.augmentation = augmentation
        self.random_state = random_state

    def distance(self, model: QueriedModel, shadow: QueriedModel) -> NDArray[np.float64]:
        """The share, from 0 to 1."""
        augmentation = self.augmentation or default_augmentation(shadow.features)
        right = _right_on_copies(model, augmentation, self.random_state)
        share: NDArray[np.float64] = right[:, 0] * right[:, 1:].mean(axis=1)
        return share


class BoundaryDistanceAttack(DistanceAttack):
    """The L2 distance to the nearest point of another label, found by HopSkipJump.

    Proposed by Choquette-Choo et al. 2021 (ICML) and by Li & Zhang 2021 (ACM CCS). HopSkipJump,
    here untargeted and in L2, is by Chen, Jordan & Wainwright 2020 (IEEE S&P). Points are not
    clipped to a range of valid features.

    All records advance together: each step asks about one point of every record, in chunks, and
    memory holds a few copies of the records and no more, however many queries a record may cost.

    What is found is never nearer than the nearest point. On a linear classifier, 2,500 queries end
    3 % too far with 64 features, 19 % with 446 and 100 % with 3,072, but evenly so: the correlation
    with the exact distances is above 0.999, and the order of the records is all that the attack
    needs.

    Parameters
    ----------
    queries : int
        The most queries that a record may cost.
    random_state : int
    """

    name = "boundary distance (label only)"

    #: Points of uniform noise tried as a start, before a record of another predicted label.
    noise_starts = 10
    #: Gradient samples of the first iteration; the t-th takes √t times as many.
    first_samples = 20
    #: Step sizes tried per iteration, each half of the last.
    step_sizes = 10

    def __init__(self, queries: int = 2500, random_state: int = 0) -> None:
        self.queries = queries
        self.random_state = random_state

    def distance(self, model: QueriedModel, shadow: QueriedModel) -> NDArray[np.float64]:
        """The distance in the features' units.

        Raises
        ------
        ValueError
            ``queries`` do not suffice for one iteration, or the model gives one label to all
            records and all noise.
        """
        rng = np.random.default_rng(self.random_state)
        predicted = answers(model.predict, model.features).argmax(axis=1)
        distance = np.zeros(len(model))
        right = np.flatnonzero(predicted == model.labels)
        if len(right):
            border = _Border(model, right)
            starts = self._starts(border, model, predicted, shadow, rng)
            distance[right] = self._hop_skip_jump(border, starts, rng)
        return distance

    def _starts(
        self,
        border: _Border,
        model: QueriedModel,
        predicted: NDArray[np.int64],
        shadow: QueriedModel,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """A point of another label for each record."""
        low, high = (limit(axis=0).ravel() for limit in (shadow.features.min, shadow.features.max))
        starts = border.records.copy()
        pending = np.arange(len(starts))
        for _ in range(self.noise_starts):
            noise = rng.uniform(low, high, (len(pending), len(low)))
            found = border.is_beyond(noise, pending)
            starts[pending[found]] = noise[found]
            pending = pending[~found]
        everything = model.features.reshape(len(model), -1)
        for label in np.unique(border.labels[pending]):
            others = np.flatnonzero(predicted != label)
            if len(others) == 0:
                raise ValueError(
                    f"the model gives label {label} to all {len(model)} records and to noise, so "
                    "there is no border to measure; add records of other classes"
                )
            stuck = pending[border.labels[pending] == label]
            starts[stuck] = everything[rng.choice(others, len(stuck))]
        return starts

    def _hop_skip_jump(
        self, border: _Border, starts: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Chen et al. 2020, algorithm 2, but a step that leads further away is not taken."""
        size = starts.shape[1]
        # The paper's precision, size ** -1.5 of the distance, and no coarser than a thousandth.
        bisections = max(10, int(np.ceil(1.5 * np.log2(size))))
        spent = 1 + self.noise_starts + bisections
        nearest = border.towards(starts, bisections)
        for iteration in count(1):
            samples = int(self.first_samples * np.sqrt(iteration))
            spent += samples + self.step_sizes + bisections
            if spent > self.queries:
                if iteration == 1:
                    raise ValueError(
                        f"queries must be at least {spent} for records of {size} features, got "
                        f"{self.queries}"
                    )
                break
            distance = border.distance(nearest)
            normal = border.normal(nearest, distance / size, samples, rng)
            jumped = border.jump(nearest, normal, distance / np.sqrt(iteration), self.step_sizes)
            candidate = border.towards(jumped, bisections)
            closer = border.distance(candidate) < distance
            nearest[closer] = candidate[closer]
        return border.distance(nearest)


class _Border:
    """Where the model stops to give records their label; points and records are flat, [n, d]."""

    def __init__(self, model: QueriedModel, chosen: NDArray[np.int64]) -> None:
        self.model = model
        self.labels = model.labels[chosen]
        self.records = model.features[chosen].reshape(len(chosen), -1).astype(np.float64)

    def is_beyond(self, points: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each point has another label than the record of its row: one query each."""
        if len(points) == 0:
            return np.zeros(0, bool)
        features = self.model.features
        queries = points.reshape(-1, *features.shape[1:]).astype(features.dtype)
        beyond: NDArray[np.bool_] = (
            answers(self.model.predict, queries).argmax(axis=1) != self.labels[rows]
        )
        return beyond

    def distance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """From each record to its point."""
        length: NDArray[np.float64] = np.linalg.norm(points - self.records, axis=1)
        return length

    def towards(self, beyond: NDArray[np.float64], bisections: int) -> NDArray[np.float64]:
        """The border on the segments from the records to points beyond it, on the far side."""
        rows = np.arange(len(beyond))
        near, far = np.zeros((len(beyond), 1)), np.ones((len(beyond), 1))
        for _ in range(bisections):
            middle = (near + far) / 2
            is_beyond = self.is_beyond(self._blend(beyond, middle), rows)[:, None]
            near, far = np.where(is_beyond, near, middle), np.where(is_beyond, middle, far)
        return self._blend(beyond, far)

    def _blend(
        self, beyond: NDArray[np.float64], share: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return (1 - share) * self.records + share * beyond

    def normal(
        self,
        points: NDArray[np.float64],
        reach: NDArray[np.float64],
        samples: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Unit vectors out of the border, by Monte Carlo at a distance of ``reach``.

        The mean side is subtracted as a baseline, which reduces the variance (Chen et al. 2020).
        Only sums are kept, so the samples need no memory.
        """
        rows = np.arange(len(points))
        weighted, plain = np.zeros_like(points), np.zeros_like(points)
        sides = np.zeros(len(points))
        for _ in range(samples):
            direction = _unit(rng.standard_normal(points.shape))
            beyond = self.is_beyond(points + reach[:, None] * direction, rows)
            side = np.where(beyond, 1.0, -1.0)
            weighted += side[:, None] * direction
            plain += direction
            sides += side
        baseline = sides / samples
        # Where all samples fell on one side, nothing would be left without the baseline.
        baseline[np.abs(baseline) == 1] = 0
        return _unit(weighted - baseline[:, None] * plain)

    def jump(
        self,
        points: NDArray[np.float64],
        normal: NDArray[np.float64],
        step: NDArray[np.float64],
        step_sizes: int,
    ) -> NDArray[np.float64]:
        """The points moved along ``normal`` by ``step``, halved until they stay beyond."""
        jumped = points.copy()
        pending = np.arange(len(points))
        for halvings in range(step_sizes):
            moved = points[pending] + (step[pending] / 2**halvings)[:, None] * normal[pending]
            found = self.is_beyond(moved, pending)
            jumped[pending[found]] = moved[found]
            pending = pending[~found]
        return jumped


def _right_on_copies(
    model: QueriedModel, augmentation: Augmentation, random_state: int
) -> NDArray[np.float64]:
    """Ones where the label is right, zeros elsewhere: [n, 1 + copies], the record itself first."""
    rng = np.random.default_rng(random_state)
    columns = [answers(model.predict, model.features).argmax(axis=1) == model.labels]
    columns += [
        answers(model.predict, copy).argmax(axis=1) == model.labels
        for copy in augmentation(model.features, rng)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _check_strengths(strengths: Sequence[ArrayLike], name: str, limit: float, copies: int) -> None:
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    if len(strengths) == 0:
        raise ValueError(f"{name} must hold at least one number")
    for index, strength in enumerate(strengths):
        values = np.asarray(strength, np.float64)
        if not ((values >= 0) & (values <= limit) & (values < np.inf)).all() or not values.any():
            raise ValueError(
                f"{name}[{index}] must be above 0, finite and at most {limit}, got {strength}"
            )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)
