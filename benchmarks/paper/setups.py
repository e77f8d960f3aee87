"""What the paper's questions are asked of: data sets, target models, and forms of AEPPT.

What trained models predict is kept in build/paper, so that the questions share it. A file there is
found by data set, sizes, recipe and seed: delete the folder where the records themselves or the
code that trains have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from aeppt import AEPPT, Predictions
from aeppt.data.baskets import synthetic_baskets
from aeppt.data.cifar import load_cifar10, load_cifar100
from aeppt.data.location import load_location
from aeppt.data.purchase import load_purchase100
from aeppt.data.records import Records, split_records
from aeppt.data.tiny_imagenet import load_tiny_imagenet
from aeppt.evaluation.demonstration import predictions_on
from aeppt.evaluation.experiment import Experiment, Sizes, run_experiment, training_by
from aeppt.models.training import Architecture, relu_network
from aeppt.recipes import Plain, Recipe

CACHE = Path(__file__).parents[2] / "build" / "paper"
PLAIN = Plain()

#: From a path, a number of records and a seed to records.
Loader = Callable[[str, int, int], Records]

PAPERS_FORM, REFINED, DEFAULT = "the paper's form", "the paper's form, refined", "the default form"
#: The paper's form moves what the substitute calls members by whole steps, which are added to the
#: probabilities. The abstract gives no step size: here it is the least of step_size.py behind which
#: static attacks end near guessing. Nor does it tell of a refinement such as the library's, which
#: shortens a move to where it just crosses the border.
FORMS: dict[str, dict[str, Any]] = {
    PAPERS_FORM: {
        "direction": "member",
        "border": None,
        "method": "step",
        "space": "prob",
        "step_size": 0.01,
        "refine_steps": 0,
    },
    DEFAULT: {},
}
FORMS[REFINED] = FORMS[PAPERS_FORM] | {"refine_steps": 10}


@dataclass(frozen=True)
class Setup:
    """A data set, and how models are trained on it.

    Parameters
    ----------
    name : str
        Stands in file names.
    title : str
        What readers are told; says "synthetic" where the records are.
    load : callable
        From a number of records and a seed to as many, or to all that a small data set has.
    architecture : callable
        From the shape of a record and the number of classes to a new network.
    sizes : Sizes
    epochs : int
    """

    name: str
    title: str
    load: Callable[[int, int], Records]
    architecture: Callable[[tuple[int, ...], int], nn.Module]
    sizes: Sizes
    epochs: int

    def records(self, seed: int) -> Records:
        """As many as all parties need."""
        sizes = self.sizes
        return self.load(3 * sizes.members + 2 * sizes.shadow_members + 2 * sizes.reference, seed)

    def network(self, records: Records) -> Architecture:
        """Makes a new network for such records."""
        return partial(self.architecture, records.features.shape[1:], records.n_classes)


def experiment(setup: Setup, seed: int, recipe: Recipe = PLAIN) -> Experiment:
    """Target and shadow model, both trained by ``recipe``; see :func:`run_experiment`."""

    def make() -> Experiment:
        records = setup.records(seed)
        train = training_by(recipe, setup.network(records), setup.epochs)
        return run_experiment(train, records, setup.sizes, seed)

    return _kept(setup, f"{recipe!r} seed={seed}", make)


def with_shadow_of(setup: Setup, seed: int, amount: int) -> Experiment:
    """:func:`experiment` against an attacker who has ``amount`` members and as many others."""

    def make() -> Experiment:
        records = setup.records(seed)
        split = split_records(records, setup.sizes.members, amount, seed)
        network = setup.network(records)
        model = PLAIN.train(network, split.shadow_members, setup.epochs, seed + amount)
        shadow = predictions_on(model, split.shadow_members, split.shadow_non_members)
        return replace(experiment(setup, seed), shadow=shadow)

    return _kept(setup, f"shadow={amount} seed={seed}", make)


def defense(form: str, known: Predictions, seed: int) -> AEPPT:
    """One of :data:`FORMS`, fitted on what the defender knows."""
    return AEPPT(random_state=seed, **FORMS[form]).fit(known.probs, known.is_member)


def _kept(setup: Setup, what: str, make: Callable[[], Experiment]) -> Experiment:
    """What ``make`` gives, from the cache where an earlier run left it."""
    told = f"{setup.name} {setup.sizes} epochs={setup.epochs} {what}"
    path = CACHE / f"{setup.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        make().save(path)
    return Experiment.load(path)


def dense(hidden: tuple[int, ...], shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """A ReLU network."""
    return relu_network((*shape, *hidden, n_classes))


def convolutional(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Two convolutions and two dense layers, for images [channels, height, width]."""
    layers: list[nn.Module] = []
    for channels, out in ((shape[0], 16), (16, 32)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    width = 32 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, n_classes)
    )


def baskets(n_classes: int) -> Setup:
    """Made-up purchases; no file is needed."""
    return Setup(
        f"baskets{n_classes}",
        "synthetic baskets, network of 256 and 128 units, 1,000 members",
        lambda count, seed: synthetic_baskets(count, n_classes, seed),
        partial(dense, (256, 128)),
        Sizes(1000, 1000, reference=500),
        epochs=60,
    )


def location(path: str | None) -> Setup:
    """The sizes of the MemGuard paper's released code."""
    return Setup(
        "location",
        "Location, network of 256 units, 1,000 members",
        lambda count, seed: load_location(_given(path)),
        partial(dense, (256,)),
        Sizes(1000, 500, reference=500),
        epochs=100,
    )


def purchase100(path: str | None) -> Setup:
    """As the baskets, of real purchases."""
    return Setup(
        "purchase100",
        "Purchase100, network of 256 and 128 units, 1,000 members",
        lambda count, seed: load_purchase100(_given(path), count, seed),
        partial(dense, (256, 128)),
        Sizes(1000, 1000, reference=500),
        epochs=60,
    )


def images(name: str, title: str, load: Loader, path: str | None) -> Setup:
    """A data set of images."""
    return Setup(
        name,
        f"{title}, small convolutional network, 2,500 members",
        lambda count, seed: load(_given(path), count, seed),
        convolutional,
        Sizes(2500, 2500, reference=1000),
        epochs=75,
    )


def _given(path: str | None) -> str:
    if path is None:
        raise SystemExit("this data set is read from a file or folder: give it with --path")
    return path


#: The set-up of each data set, from the path on the command line.
DATA: dict[str, Callable[[str | None], Setup]] = {
    "baskets": lambda path: baskets(100),
    "location": location,
    "cifar10": partial(images, "cifar10", "CIFAR-10", load_cifar10),
    "cifar100": partial(images, "cifar100", "CIFAR-100", load_cifar100),
    "tiny-imagenet": partial(images, "tiny-imagenet", "Tiny ImageNet", load_tiny_imagenet),
    "purchase100": purchase100,
}
