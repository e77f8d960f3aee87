"""Attacks a model's predictions without and with a defense, and says what still leaks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from aeppt.attacks import (
    Attack,
    CorrectnessAttack,
    PerExampleAttack,
    QueriedModel,
    QueryAttack,
    all_attacks,
    default_attacks,
    per_example_attacks,
    query_attacks,
)
from aeppt.defenses import OutputDefense
from aeppt.defenses.base import seeded
from aeppt.evaluation.canaries import audit_canaries, most_vulnerable
from aeppt.evaluation.certificate import certify
from aeppt.evaluation.metrics import attack_metrics, judged, record_warnings
from aeppt.evaluation.results import SETTINGS, AttackOutcome, AuditReport, Setting
from aeppt.evaluation.utility import measure_utility
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions
from aeppt.version import __version__
from aeppt_ext import ops

#: Of the target's records, those that shadow models give away most are looked at apart.
CANARY_SHARE = 0.1

#: Told before each piece of work: what comes, how many pieces are done, how many there are.
Progress = Callable[[str, int, int], None]


class Job(NamedTuple):
    """One run of an attack: in which settings it scores the target's records, and how."""

    attack: str
    settings: tuple[Setting, ...]
    run: Callable[[], list[NDArray[np.float64]]]
    is_per_example: bool = False


def audit(
    target: Predictions,
    shadow: Predictions,
    defense: OutputDefense,
    shadow_defense: OutputDefense | None = None,
    attacks: Sequence[Attack] | Literal["default", "all"] = "default",
    random_state: int = 0,
    title: str = "Membership inference audit",
    on_progress: Progress | None = None,
    shadows: ShadowPredictions | None = None,
    queried: tuple[QueriedModel, QueriedModel] | None = None,
    held_out: Predictions | None = None,
) -> AuditReport:
    """Attack ``target`` undefended, and behind ``defense`` by a static and an adaptive attacker.

    The static attacker trains on undefended shadow predictions. The adaptive one knows the defense,
    fits an own copy of it on the predictions of each shadow model, and trains on what the copies
    return. Judge a defense by the adaptive attacker, beside the label-only floor.

    Parameters
    ----------
    target : Predictions
        Undefended predictions of the protected model, on members and on records that neither the
        model nor ``defense`` was fitted on.
    shadow : Predictions
        Undefended predictions of the attacker's shadow model.
    defense : OutputDefense
        The fitted defense of the target.
    shadow_defense : OutputDefense or None
        The attacker's fitted copy; None fits a clone of ``defense``, with another seed, on
        ``shadow``.
    attacks : sequence of Attack, "default" or "all"
        Attacks on single predictions; ``"all"`` are those of :func:`aeppt.attacks.all_attacks`.
    random_state : int
        Seed of the attacks and of the attacker's copies of the defense.
    title : str
        What the report is headed.
    on_progress : callable or None
        Called as ``on_progress(what_comes, done, total)``.
    shadows : ShadowPredictions or None
        Undefended predictions of many shadow models on the target's records, in the same order.
        With them, per-example attacks run too.
    queried : tuple of two QueriedModel or None
        The target, undefended, with the target's records, and the shadow model with its own. With
        them, attacks that send queries run too.
    held_out : Predictions or None
        Undefended predictions of the target on members and non-members that took no part in fitting
        ``defense``. With them, the report has a certificate (:func:`aeppt.evaluation.certify`).

    Returns
    -------
    AuditReport

    Raises
    ------
    ValueError
        The target or ``held_out`` has only members or only non-members, numbers of classes differ,
        or ``shadows`` or ``queried`` are about other records.
    """
    if queried is not None and not np.array_equal(queried[0].labels, target.labels):
        raise ValueError("the queried target's records have other labels than the target's")
    if attacks == "default":
        attacks = default_attacks(random_state)
    elif attacks == "all":
        attacks = all_attacks(random_state)
    asking = [] if queried is None else query_attacks(random_state)
    comparing = [] if shadows is None else per_example_attacks(random_state)
    preparations = 2 + (held_out is not None) + (shadows is not None)
    total = preparations + 2 * len(attacks) + 2 * len(asking) + 3 * len(comparing)
    tell = on_progress or (lambda what, done, total: None)

    tell("protecting the target's predictions", 0, total)
    probs, info = defense.protect(target.probs, return_info=True)
    protected = target.with_probs(probs)
    certificate = None
    if held_out is not None:
        tell("certifying the defense", 1, total)
        released = held_out.with_probs(defense.protect(held_out.probs))
        certificate = certify(released, random_state=random_state)
    tell("fitting the attacker's copy of the defense", 1 + (held_out is not None), total)
    if shadow_defense is None:
        shadow_defense = _attackers_copy(defense, shadow, random_state + 1)
    protected_shadow = shadow.with_probs(shadow_defense.protect(shadow.probs))
    jobs = _jobs(attacks, (shadow, protected_shadow), (target, protected))
    if queried is not None:
        victim, lesson = queried
        jobs += _jobs(
            asking,
            (lesson, _behind(shadow_defense, lesson)),
            (victim, _behind(defense, victim)),
        )
    if shadows is not None:
        tell("fitting a copy of the defense for each shadow model", preparations - 1, total)
        protected_shadows = _protected_shadows(shadows, defense, random_state + 2)
        jobs += _jobs_per_example(comparing, (shadows, protected_shadows), (target, protected))

    (label_only,) = CorrectnessAttack()(shadow, target)
    canaries = None if shadows is None else _canaries(shadows, target.is_member)
    outcomes: list[AttackOutcome] = []
    for done, job in enumerate(jobs, preparations):
        tell(f"attack: {job.attack}, {' and '.join(job.settings)}", done, total)
        for setting, scores in zip(job.settings, job.run(), strict=True):
            outcome = judged(job.attack, setting, scores, label_only, target.is_member)
            if job.is_per_example and canaries is not None:
                found = audit_canaries(scores, target.is_member, canaries)
                outcome = replace(outcome, canaries=found)
            outcomes.append(outcome)
    tell("done", total, total)

    return AuditReport(
        title=title,
        defense=repr(defense),
        target=target,
        protected=protected,
        outcomes=tuple(outcomes),
        floor=attack_metrics(label_only, target.is_member)["balanced_accuracy"],
        utility=measure_utility(target, protected, info.status_counts()),
        facts=_facts(target, shadow, shadows, defense, random_state),
        warnings=record_warnings(target, shadow),
        certificate=certificate,
    )


def _attackers_copy(defense: OutputDefense, known: Predictions, seed: int) -> OutputDefense:
    """The defense as an attacker fits it, on predictions whose membership is his to know."""
    return seeded(defense, seed).fit_predictions(known)


def _protected_shadows(
    shadows: ShadowPredictions, defense: OutputDefense, seed: int
) -> ShadowPredictions:
    """What each shadow model says behind a copy of the defense that was fitted for it."""
    probs = np.empty_like(shadows.probs)
    for model in range(len(shadows)):
        known = shadows.of_model(model)
        probs[model] = _attackers_copy(defense, known, seed + model).protect(known.probs)
    return ShadowPredictions(probs, shadows.labels, shadows.trained_on)


def _canaries(shadows: ShadowPredictions, is_member: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The most vulnerable records; None where they are all members of the target or all not."""
    chosen = most_vulnerable(shadows, max(1, round(CANARY_SHARE * len(is_member))))
    return chosen if is_member[chosen].any() and not is_member[chosen].all() else None


def _behind(defense: OutputDefense, model: QueriedModel) -> QueriedModel:
    """The model as its clients see it."""
    return replace(model, predict=lambda features: defense.protect(model.predict(features)))


# Attackers come as (static, adaptive), victims as (undefended, protected).


def _jobs(
    attacks: Sequence[Attack] | Sequence[QueryAttack],
    attackers: tuple[Any, Any],
    victims: tuple[Any, Any],
) -> list[Job]:
    return [
        job
        for attack in attacks
        for job in (
            Job(attack.name, ("undefended", "static"), partial(attack, attackers[0], *victims)),
            Job(attack.name, ("adaptive",), partial(attack, attackers[1], victims[1])),
        )
    ]


def _jobs_per_example(
    attacks: Sequence[PerExampleAttack],
    attackers: tuple[ShadowPredictions, ShadowPredictions],
    victims: tuple[Predictions, Predictions],
) -> list[Job]:
    (static, adaptive), (undefended, protected) = attackers, victims
    return [
        Job(attack.name, (setting,), partial(_alone, attack, lesson, victim), True)
        for attack in attacks
        for setting, lesson, victim in (
            (SETTINGS[0], static, undefended),
            (SETTINGS[1], static, protected),
            (SETTINGS[2], adaptive, protected),
        )
    ]


def _alone(
    attack: PerExampleAttack, shadows: ShadowPredictions, victim: Predictions
) -> list[NDArray[np.float64]]:
    return [attack(shadows, victim)]


def _facts(
    target: Predictions,
    shadow: Predictions,
    shadows: ShadowPredictions | None,
    defense: OutputDefense,
    random_state: int,
) -> dict[str, str]:
    others = int((~target.is_member).sum())
    return {
        "target records": f"{int(target.is_member.sum())} members, {others} non-members",
        "shadow records": f"{int(shadow.is_member.sum())} members, "
        f"{int((~shadow.is_member).sum())} non-members",
        "shadow models for per-example attacks": "none" if shadows is None else str(len(shadows)),
        "classes": str(target.n_classes),
        "defense parameters": ", ".join(f"{k}={v!r}" for k, v in defense.get_params().items()),
        "random state": str(random_state),
        "aeppt": __version__,
        "engine": "compiled" if ops.compiled is not None else "plain PyTorch",
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
