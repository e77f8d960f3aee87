"""Attacks a model's predictions without and with a defense, and says what still leaks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from sklearn.base import clone

from aeppt.attacks import Attack, CorrectnessAttack, default_attacks
from aeppt.defenses import OutputDefense, ProtectionInfo
from aeppt.evaluation.metrics import attack_metrics, calibration_error, share
from aeppt.evaluation.results import AttackOutcome, AuditReport, Setting, Utility
from aeppt.predictions import Predictions
from aeppt.version import __version__
from aeppt_ext import ops

#: Told before each piece of work: what comes, how many pieces are done, how many there are.
Progress = Callable[[str, int, int], None]


def audit(
    target: Predictions,
    shadow: Predictions,
    defense: OutputDefense,
    shadow_defense: OutputDefense | None = None,
    attacks: Sequence[Attack] | Literal["default"] = "default",
    random_state: int = 0,
    title: str = "Membership inference audit",
    on_progress: Progress | None = None,
) -> AuditReport:
    """Attack ``target`` undefended, and behind ``defense`` by a static and an adaptive attacker.

    The static attacker trains on undefended shadow predictions. The adaptive one knows the defense,
    fits an own copy of it on the shadow predictions and trains on what that copy returns. Judge a
    defense by the adaptive attacker, beside the label-only floor.

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
    attacks : sequence of Attack, or "default"
    random_state : int
        Seed of the attacks and of the attacker's copy of the defense.
    title : str
        What the report is headed.
    on_progress : callable or None
        Called as ``on_progress(what_comes, done, total)``.

    Returns
    -------
    AuditReport

    Raises
    ------
    ValueError
        The target has only members or only non-members, or the shadow's classes differ.
    """
    chosen = default_attacks(random_state) if attacks == "default" else list(attacks)
    total = 2 * len(chosen) + 2
    report_progress = on_progress or (lambda what, done, total: None)

    report_progress("protecting the target's predictions", 0, total)
    probs, info = defense.protect(target.probs, return_info=True)
    protected = target.with_probs(probs)
    report_progress("fitting the attacker's copy of the defense", 1, total)
    if shadow_defense is None:
        shadow_defense = clone(defense)
        if "random_state" in shadow_defense.get_params():
            shadow_defense.set_params(random_state=random_state + 1)
        shadow_defense.fit(shadow.probs, shadow.is_member)
    protected_shadow = shadow.with_probs(shadow_defense.protect(shadow.probs))

    outcomes: list[AttackOutcome] = []
    for number, attack in enumerate(chosen):
        runs: list[tuple[Predictions, dict[Setting, Predictions]]] = [
            (shadow, {"undefended": target, "static": protected}),
            (protected_shadow, {"adaptive": protected}),
        ]
        for half, (lesson, victims) in enumerate(runs):
            who = " and ".join(victims)
            report_progress(f"attack: {attack.name}, {who}", 2 + 2 * number + half, total)
            for setting, scores in zip(victims, attack(lesson, *victims.values()), strict=True):
                metrics = attack_metrics(scores, target.is_member)
                outcomes.append(AttackOutcome(attack.name, setting, scores, metrics))
    report_progress("done", total, total)

    (label_only,) = CorrectnessAttack()(shadow, target)
    return AuditReport(
        title=title,
        defense=repr(defense),
        target=target,
        protected=protected,
        outcomes=tuple(outcomes),
        floor=attack_metrics(label_only, target.is_member)["balanced_accuracy"],
        utility=_utility(target, protected, info),
        facts=_facts(target, shadow, defense, random_state),
    )


def _utility(target: Predictions, protected: Predictions, info: ProtectionInfo) -> Utility:
    n = len(target)
    return Utility(
        accuracy=share(int(target.is_correct.sum()), n),
        accuracy_protected=share(int(protected.is_correct.sum()), n),
        calibration_error=calibration_error(target),
        calibration_error_protected=calibration_error(protected),
        l1_members=float(info.l1[target.is_member].mean()),
        l1_non_members=float(info.l1[~target.is_member].mean()),
        status_counts=info.status_counts(),
    )


def _facts(
    target: Predictions, shadow: Predictions, defense: OutputDefense, random_state: int
) -> dict[str, str]:
    others = int((~target.is_member).sum())
    facts = {
        "target records": f"{int(target.is_member.sum())} members, {others} non-members",
        "shadow records": f"{int(shadow.is_member.sum())} members, "
        f"{int((~shadow.is_member).sum())} non-members",
        "classes": str(target.n_classes),
        "defense parameters": ", ".join(f"{k}={v!r}" for k, v in defense.get_params().items()),
        "random state": str(random_state),
        "aeppt": __version__,
        "engine": "compiled" if ops.compiled is not None else "plain PyTorch",
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    if others < 1000:
        facts["caution"] = (
            f"with {others} non-members, the false-positive rate 0.1 % means no false positive at "
            "all; the TPR there is known only roughly"
        )
    return facts
