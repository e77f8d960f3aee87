"""The whole method on real data: train, defend, attack, report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from torch import nn

from aeppt.attacks import QueriedModel
from aeppt.data import Records, join_records, split_records
from aeppt.defenses import OutputDefense, PrivacyFunnel
from aeppt.defenses.base import seeded
from aeppt.evaluation.harness import Progress, audit
from aeppt.evaluation.results import AuditReport
from aeppt.models import predict_probs, train_classifier, train_shadows
from aeppt.predictions import Predictions


@dataclass(frozen=True)
class Setup:
    """How large the training sets are, and how long the models train on them.

    Small training sets and many epochs, so that the models overfit, as real ones on scarce
    confidential data do.
    """

    members: int
    shadow_members: int
    hidden: tuple[int, ...]
    epochs: int


#: On Location, the sizes of the MemGuard paper's released code.
SETUPS = {
    "digits": Setup(members=200, shadow_members=200, hidden=(512,), epochs=200),
    "location": Setup(members=1000, shadow_members=500, hidden=(256,), epochs=100),
}


def demonstrate(
    name: str,
    records: Records,
    random_state: int = 0,
    on_progress: Progress | None = None,
    attacks: Literal["default", "all"] = "default",
    shadow_models: int = 0,
    defense: OutputDefense | None = None,
) -> tuple[AuditReport, OutputDefense]:
    """Train a target and a shadow model on ``records``, defend the target, and audit it.

    The defense is fitted on every other member. The rest, and the non-members that it is attacked
    on, are held out for the certificate.

    Parameters
    ----------
    name : {"digits", "location"}
        Which of :data:`SETUPS` to use.
    records : Records
    random_state : int
        Seed of the split, of all models, of the defense and of the attacks.
    attacks : {"default", "all"}
        Which attacks on predictions; with ``"all"`` those that query the models run too.
    shadow_models : int
        How many more shadow models to train on the audited records, for per-example attacks: an
        even number of at least 4, or 0 for none of these attacks.
    defense : OutputDefense or None
        Which to show, not fitted; None means :class:`aeppt.PrivacyFunnel`. Its ``random_state``
        becomes that of the demonstration.

    Returns
    -------
    AuditReport
    OutputDefense
        The fitted defense.
    """
    setup = SETUPS[name]
    split = split_records(records, setup.members, setup.shadow_members, random_state)
    target_seed, shadow_seed = np.random.SeedSequence(random_state).generate_state(2).tolist()
    tell = on_progress or (lambda what, done, total: None)

    def train(which: str, part: Records, seed: int) -> nn.Module:
        def on_epoch(done: int) -> None:
            tell(f"training the {which} model", done, setup.epochs)

        return train_classifier(part, setup.hidden, setup.epochs, seed, on_epoch)

    target = train("target", split.members, target_seed)
    shadow = train("shadow", split.shadow_members, shadow_seed)
    audited, asked = split.members, split.fresh_non_members
    fitting, held_back = (audited.take(np.arange(i, len(audited), 2)) for i in range(2))
    known = predictions_on(target, fitting, split.known_non_members)
    held_out = predictions_on(target, held_back, asked)
    tell("fitting the defense", 0, 1)
    shown = seeded(PrivacyFunnel() if defense is None else defense, random_state)
    shown.fit_predictions(known)
    shadows = None
    if shadow_models > 0:
        pool = join_records(audited, asked)
        shadows = train_shadows(
            pool,
            shadow_models,
            setup.hidden,
            setup.epochs,
            shadow_seed + 1,
            on_progress=on_progress,
        )
    queried = None
    if attacks == "all":
        queried = (
            queried_model(target, audited, asked),
            queried_model(shadow, split.shadow_members, split.shadow_non_members),
        )
    report = audit(
        target=predictions_on(target, audited, asked),
        shadow=predictions_on(shadow, split.shadow_members, split.shadow_non_members),
        defense=shown,
        attacks=attacks,
        shadows=shadows,
        queried=queried,
        random_state=random_state,
        title=f"{type(shown).__name__} on {name}",
        on_progress=on_progress,
        held_out=held_out,
    )
    return report, shown


def predictions_on(model: nn.Module, members: Records, others: Records) -> Predictions:
    """The model's predictions on records of its training set and on others."""
    return Predictions(
        np.concatenate([predict_probs(model, part.features) for part in (members, others)]),
        np.concatenate([members.labels, others.labels]),
        np.repeat([True, False], [len(members), len(others)]),
    )


def queried_model(model: nn.Module, members: Records, others: Records) -> QueriedModel:
    """The model, to be asked about records of its training set and about others."""
    records = join_records(members, others)
    return QueriedModel(
        partial(predict_probs, model),
        records.features,
        records.labels,
        np.repeat([True, False], [len(members), len(others)]),
    )
