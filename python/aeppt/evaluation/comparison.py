"""Which defense, and what does it cost? Ways of training, defenses and seeds, side by side.

A *contender* is a way of training together with an output defense. Each is audited once per seed;
an audit of one contender and one seed is a *cell*. Everything that is finished is kept in a folder,
so that a comparison that was cut short goes on, and a larger one makes only what it adds.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from aeppt.attacks.base import Attack
from aeppt.defenses.base import OutputDefense, seeded
from aeppt.evaluation.experiment import Experiment
from aeppt.evaluation.fingerprint import fingerprint
from aeppt.evaluation.harness import Progress, audit
from aeppt.evaluation.kept_work import (
    Execute,
    Piece,
    finish,
    load_json,
    processes,
    save_json,
)
from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.utility import with_latency
from aeppt.files import write_atomically
from aeppt.version import __version__

CONTENDER = ["training", "defense"]
CELL = [*CONTENDER, "seed"]
#: The attacker who knows a defense may also attack as one who does not.
ADAPTIVE = ("static", "adaptive")
#: What a contender must not be outdone in: see :func:`undominated`.
OBJECTIVES = ["adaptive", "l1", "accuracy_cost"]
ADVANTAGE = ["advantage", "advantage_low", "advantage_high"]
#: What a file tells of each attack.
TOLD = ["balanced_accuracy", "auc", "tpr_at_0.1_percent_fpr"]
MOST_NAMED = 3  # attacks that one warning names
KEY_LENGTH, READABLE = 16, 80  # characters of a kept file's name


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` found.

    Parameters
    ----------
    title : str
    cells : DataFrame
        A row per contender and seed: the label-only floor, and what the defense costs there.
        Accuracies, calibration errors and log-losses are those on fresh non-members, which are what
        a model is used for; training records are predicted better.
    outcomes : DataFrame
        A row per contender, seed, attack and setting, with every metric and its interval.
    facts : dict
        What a reader needs to reproduce it.
    warnings : tuple of str
        What is doubtful about the records or the attacks, and in how many cells.
    """

    title: str
    cells: pd.DataFrame
    outcomes: pd.DataFrame
    facts: dict[str, str]
    warnings: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The way of training that costs are counted from: the first."""
        return str(self.cells["training"].iloc[0])

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per contender, least adaptive leakage first; means over seeds.

        ``undefended``, ``static`` and ``adaptive`` are the balanced accuracy of the strongest
        attack, chosen for each seed by the records that it is judged on, so some of it is luck; the
        adaptive attacker may also leave aside that he knows the defense. ``_attack`` names the
        attack that is strongest most often, ``_low`` and ``_high`` are the mean ends of its 95 %
        intervals over records, ``_min``, ``_max`` and ``_std`` tell how seeds differ. ``advantage``
        is what the strongest adaptive attack adds to the label-only floor on the same records.
        ``lira_auc``, ``tpr_at_0.1_percent_fpr`` and ``canary_tpr`` (TPR at 0.1 % FPR among the most
        vulnerable records) are the highest of any attack of the adaptive attacker, again per seed.

        ``accuracy_cost`` is the accuracy on fresh records that the first way of training has
        undefended and the contender has not; ``training_ratio`` its training time in the first's.
        ``is_undominated`` says that no other contender is as good in leakage, mean L1 and accuracy
        and better in one. What is undefined or was not measured is NaN.
        """
        baseline = self.cells[self.cells["training"] == self.baseline]
        baseline = baseline.drop_duplicates("seed").set_index("seed")
        cells = self.cells.assign(
            accuracy_cost=self.cells["seed"].map(baseline["accuracy_before"])
            - self.cells["accuracy"],
            training_ratio=self.cells["training_seconds"]
            / self.cells["seed"].map(baseline["training_seconds"]),
        )
        contenders = cells.groupby(CONTENDER, sort=False)
        columns: list[Any] = [contenders["seed"].count().rename("seeds")]
        for name, settings in (
            ("undefended", ("undefended",)),
            ("static", ("static",)),
            ("adaptive", ADAPTIVE),
        ):
            columns.append(self._strongest(settings, name))
        adaptive = self.outcomes[self.outcomes["setting"].isin(ADAPTIVE)]
        lira = adaptive[adaptive["attack"].str.startswith("LiRA")]
        columns += [
            _highest(lira, "auc").rename("lira_auc"),
            _highest(adaptive, "tpr_at_0.1_percent_fpr"),
            _highest(adaptive, "canary_tpr"),
            contenders[[name for name in cells.columns if name not in CELL]].mean(),
        ]
        table = pd.concat(columns, axis=1).reset_index()
        table["is_undominated"] = undominated(table[OBJECTIVES])
        return pd.DataFrame(table.sort_values("adaptive", kind="stable", ignore_index=True))

    @cached_property
    def attacks(self) -> pd.DataFrame:
        """A row per contender, attack and setting: the mean of every metric over seeds."""
        by = [*CONTENDER, "attack", "setting"]
        return self.outcomes.groupby(by, sort=False)[list(METRICS)].mean().reset_index()

    def _strongest(self, settings: Sequence[str], name: str) -> pd.DataFrame:
        """The strongest attack of each cell, summarised per contender in columns of ``name``."""
        best = _best(self.outcomes[self.outcomes["setting"].isin(settings)], "balanced_accuracy")
        contenders = best.groupby(CONTENDER, sort=False)
        value = contenders["balanced_accuracy"]
        columns = {
            f"{name}_attack": contenders["attack"].agg(lambda a: Counter(a).most_common(1)[0][0]),
            name: value.mean(),
            f"{name}_low": contenders["balanced_accuracy_low"].mean(),
            f"{name}_high": contenders["balanced_accuracy_high"].mean(),
            f"{name}_min": value.min(),
            f"{name}_max": value.max(),
            f"{name}_std": value.std(),
        }
        if name == "adaptive":
            columns |= {end: contenders[end].mean() for end in ADVANTAGE}
        return pd.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """The table with every attack's means, and the facts, as plain Python values.

        What is undefined is None. The audit of each cell is in the folder that :func:`compare` was
        given.
        """
        rows = _records(self.table)
        for row in rows:
            own = (self.attacks[CONTENDER] == [row[name] for name in CONTENDER]).all(axis=1)
            row["attacks"] = _records(self.attacks.loc[own, ["attack", "setting", *TOLD]])
        return {
            "title": self.title,
            "baseline": self.baseline,
            "contenders": rows,
            "facts": self.facts,
            "warnings": list(self.warnings),
        }

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_atomically(path, lambda file: file.write(text.encode()))

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page, which opens without a network."""
        from aeppt.evaluation.comparison_page import render

        page = render(self)
        write_atomically(path, lambda file: file.write(page.encode()))


def undominated(costs: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row outdoes: the Pareto frontier where less is better.

    A row is outdone by one that is nowhere greater and somewhere less; equal rows do not outdo each
    other. A row with NaN is never on the frontier and outdoes none.

    Parameters
    ----------
    costs : array [n, d]

    Returns
    -------
    array [n], bool
    """
    rows = np.asarray(costs, np.float64)
    nowhere_greater = (rows[:, None] <= rows).all(axis=2)  # [n, n]: of the first over the second
    somewhere_less = (rows[:, None] < rows).any(axis=2)
    is_outdone = (nowhere_greater & somewhere_less).any(axis=0)  # [n]
    return np.asarray(~is_outdone & ~np.isnan(rows).any(axis=1))


def compare(
    experiments: Mapping[str, Experiment | Callable[[int], Experiment]],
    defenses: Mapping[str, OutputDefense],
    seeds: Sequence[int],
    folder: str | Path,
    contenders: Iterable[tuple[str, str]] | None = None,
    attacks: Sequence[Attack] | Literal["default", "all"] = "default",
    workers: int = 1,
    on_progress: Progress | None = None,
    title: str = "Defenses compared",
    execute: Execute | None = None,
) -> Comparison:
    """Audit every contender with every seed, and set them side by side.

    Each experiment is made once per seed, then every defense is fitted on it and audited; both in
    parallel, on one thread per worker. At last the time that a defense adds to one prediction is
    measured with the first seed, one contender after the other.

    Parameters
    ----------
    experiments : mapping from str to callable or Experiment
        Per way of training, the experiment of a seed, such as a ``functools.partial`` of
        :func:`aeppt.evaluation.experiment.run_experiment`. An :class:`Experiment` itself serves
        every seed; then seeds differ in the defense and the attacks alone.
    defenses : mapping from str to OutputDefense
        Not fitted. Clones are, whose ``random_state`` is the seed where they have one.
        :class:`aeppt.defenses.Undefended` stands for none.
    seeds : sequence of int
    folder : path
        Where finished work is kept; made if missing. A file is used again only for the same
        predictions (or the same function, its arguments and the source of its module), the same
        parameters, attacks, seed and version of aeppt. A damaged one is made anew, with a warning.
    contenders : iterable of (training, defense), or None
        Which to compare; None means every way of training with every defense. Costs are counted
        from the first one's training.
    attacks : sequence of Attack, "default" or "all"
        As for :func:`aeppt.audit`, with per-example attacks where an experiment has ``shadows``.
    workers : int
        How many processes work at once.
    on_progress : callable or None
        Called as ``on_progress(what_was_done, done, total)``; pieces of work that were found in
        ``folder`` count.
    title : str
        What the comparison is headed.
    execute : callable or None
        Does the work in place of ``workers`` processes here, such as
        :func:`aeppt.serving.cluster.ray_tasks`; results are the same.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        A name, a seed or ``workers`` is not valid; or what a cell raised, whose name comes first.
    TypeError
        A defense is none, or an experiment's function cannot be pickled.
    """
    chosen = list(
        dict.fromkeys(product(experiments, defenses) if contenders is None else contenders)
    )
    _check(experiments, defenses, chosen, seeds, attacks, workers)
    execute = execute or processes(workers)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    places = [
        (training, seed) for training in dict.fromkeys(t for t, _ in chosen) for seed in seeds
    ]
    total = len(chosen) * (len(seeds) + 1) + sum(callable(experiments[t]) for t, _ in places)
    finished = count(1)

    def tell(what: str) -> None:
        done = next(finished)
        if on_progress is not None:
            on_progress(what, done, total)

    makers = {place: _training(place, experiments, folder) for place in places}
    finish([maker for maker in makers.values() if isinstance(maker, Piece)], execute, tell)
    sources = {place: _source(maker) for place, maker in makers.items()}

    cells, timings = {}, {}
    for training, name in chosen:
        for seed in seeds:
            source = sources[training, seed]
            defense = seeded(defenses[name], seed)
            key = fingerprint(__version__, source.digest, defense, attacks, seed)
            what = f"{training}, {name}, seed {seed}"
            cells[training, name, seed] = Piece(
                f"audit of {what}",
                _file(folder, f"audit {what}", key, "json"),
                partial(_audited, source, defense, attacks, seed),
                save_json,
                load_json,
            )
            if seed == seeds[0]:
                timings[training, name, seed] = Piece(
                    f"latency of {what}",
                    _file(folder, f"latency {what}", key, "json"),
                    partial(_seconds_per_record, source, defense),
                    save_json,
                    load_json,
                )
    finish(list(cells.values()), execute, tell)
    finish(list(timings.values()), processes(1), tell)

    audits = {cell: piece.load(piece.file) for cell, piece in cells.items()}
    latencies = {cell: piece.load(piece.file) for cell, piece in timings.items()}
    return Comparison(
        title,
        cells=pd.DataFrame(
            [
                {
                    **dict(zip(CELL, cell, strict=True)),
                    **_costs(found),
                    "seconds_per_record": latencies.get(cell, math.nan),
                    "training_seconds": sources[cell[0], cell[2]].training_seconds,
                }
                for cell, found in audits.items()
            ]
        ),
        outcomes=pd.DataFrame(
            [row for cell, found in audits.items() for row in _outcome_rows(cell, found)]
        ),
        facts=_facts(experiments, defenses, chosen, seeds, attacks, next(iter(audits.values()))),
        warnings=_warnings(list(audits.values())),
    )


def _check(
    experiments: Mapping[str, Experiment | Callable[[int], Experiment]],
    defenses: Mapping[str, OutputDefense],
    contenders: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    attacks: Sequence[Attack] | Literal["default", "all"],
    workers: int,
) -> None:
    for name, given in experiments.items():
        if not (isinstance(given, Experiment) or callable(given)):
            raise TypeError(
                f"experiments[{name!r}] must be an Experiment or a function from a seed to one, "
                f"got {given!r}"
            )
    for name, defense in defenses.items():
        if not isinstance(defense, OutputDefense):
            raise TypeError(f"defenses[{name!r}] must be an OutputDefense, got {defense!r}")
    if not contenders:
        raise ValueError("there is nothing to compare: give experiments and defenses")
    for training, name in contenders:
        if training not in experiments or name not in defenses:
            raise ValueError(
                f"there is no contender {(training, name)!r}: experiments are "
                f"{list(experiments)}, defenses {list(defenses)}"
            )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be one or more integers from 0 on, once each; got {seeds!r}")
    if not attacks:
        raise ValueError("attacks must hold at least one attack")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


class _Source(NamedTuple):
    """Where a worker finds an experiment, and what else is to be known of it."""

    load: Callable[[], Experiment]
    digest: str  # of its predictions
    training_seconds: float


def _training(
    place: tuple[str, int],
    experiments: Mapping[str, Experiment | Callable[[int], Experiment]],
    folder: Path,
) -> Piece | Experiment:
    """The work of making an experiment, or the experiment where it was given."""
    training, seed = place
    given = experiments[training]
    if isinstance(given, Experiment):
        return given
    what = f"experiment {training}, seed {seed}"
    try:
        key = fingerprint(__version__, torch.__version__, given, seed)
    except TypeError as error:
        raise TypeError(f"experiments[{training!r}]: {error}") from error
    file = _file(folder, what, key, "npz")
    return Piece(what, file, partial(given, seed), Experiment.save, Experiment.load)


def _source(maker: Piece | Experiment) -> _Source:
    if isinstance(maker, Piece):
        load: Callable[[], Experiment] = _KeptExperiment(maker.file)
    else:
        load = partial(_itself, maker)
    experiment = load()
    predictions = (experiment.known, experiment.target, experiment.shadow, experiment.shadows)
    return _Source(load, fingerprint(predictions), experiment.training_seconds)


@dataclass(frozen=True)
class _KeptExperiment:
    """Reads an experiment from its file; sent to a worker, it takes the content along.

    The worker may be on another machine, which has no such file.
    """

    file: Path

    def __call__(self) -> Experiment:
        return Experiment.load(self.file)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return partial, (_itself, self())


def _itself(experiment: Experiment) -> Experiment:
    return experiment


def _file(folder: Path, what: str, key: str, suffix: str) -> Path:
    readable = re.sub(r"[^\w.=+-]+", "-", what)[:READABLE]
    return folder / f"{readable}-{key[:KEY_LENGTH]}.{suffix}"


# What workers do.


def _audited(
    source: _Source,
    defense: OutputDefense,
    attacks: Sequence[Attack] | Literal["default", "all"],
    seed: int,
) -> dict[str, Any]:
    experiment = source.load()
    fitted = clone(defense).fit_predictions(experiment.known)
    report = audit(
        experiment.target,
        experiment.shadow,
        fitted,
        attacks=attacks,
        random_state=seed,
        shadows=experiment.shadows,
    )
    return report.to_dict()


def _seconds_per_record(source: _Source, defense: OutputDefense) -> float:
    experiment = source.load()
    fitted = clone(defense).fit_predictions(experiment.known)
    report = audit(experiment.target, experiment.shadow, fitted, fitted, attacks=())
    return with_latency(report, fitted).utility.seconds_per_record


# From audits to tables.


def _costs(found: dict[str, Any]) -> dict[str, float]:
    """The label-only floor, and what the defense costs."""
    utility = found["utility"]
    before, after = utility["non_members"]["before"], utility["non_members"]["after"]
    return {
        "floor": found["label_only_floor"]["value"],
        "accuracy_before": before["accuracy"]["value"],
        "accuracy": after["accuracy"]["value"],
        "calibration_error_before": before["calibration_error"],
        "calibration_error": after["calibration_error"],
        "log_loss_before": before["negative_log_likelihood"],
        "log_loss": after["negative_log_likelihood"],
        "l1": utility["all"]["distortion"]["l1"],
        "l1_members": utility["l1_members"],
        "l1_non_members": utility["l1_non_members"],
    }


def _outcome_rows(cell: tuple[str, str, int], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in found["attacks"]:
        row = {
            **dict(zip(CELL, cell, strict=True)),
            "attack": entry["attack"],
            "setting": entry["setting"],
        }
        for metric in (*METRICS, "advantage"):
            estimate = entry[metric]
            row[metric] = estimate["value"]
            row[f"{metric}_low"], row[f"{metric}_high"] = estimate["low"], estimate["high"]
        canaries = entry["canaries"]
        row["canary_tpr"] = math.nan if canaries is None else canaries["canaries"]["value"]
        yield row


def _best(outcomes: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The row of each cell with the greatest ``metric``, where one is defined."""
    defined = outcomes.dropna(subset=metric)
    return defined.loc[defined.groupby(CELL, sort=False)[metric].idxmax()]


def _highest(outcomes: pd.DataFrame, metric: str) -> pd.Series:
    """The greatest ``metric`` of each seed, its mean over seeds per contender."""
    return _best(outcomes, metric).groupby(CONTENDER, sort=False)[metric].mean()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(name): None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]


def _facts(
    experiments: Mapping[str, Experiment | Callable[[int], Experiment]],
    defenses: Mapping[str, OutputDefense],
    contenders: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    attacks: Sequence[Attack] | Literal["default", "all"],
    found: dict[str, Any],
) -> dict[str, str]:
    """Of the comparison; what all its audits share is taken from one of them."""
    are_given = all(isinstance(experiments[training], Experiment) for training, _ in contenders)
    own = ("classes", "target records", "shadow records", "shadow models for per-example attacks")
    return {
        **{name: found["facts"][name] for name in own},
        "seeds": ", ".join(map(str, seeds))
        + (
            "; the predictions were given, seeds change defenses and attackers alone"
            if are_given
            else "; each deals the records and trains all models anew"
        ),
        "attacks": attacks
        if isinstance(attacks, str)
        else ", ".join(dict.fromkeys(attack.name for attack in attacks)),
        **{
            f"defense {name}": repr(defenses[name])
            for name in dict.fromkeys(name for _, name in contenders)
            if repr(defenses[name]).removesuffix("()") != name
        },
        **{name: found["facts"][name] for name in ("aeppt", "engine", "torch", "Python")},
        "machine": f"{platform.machine()}, {platform.system()}",
    }


def _warnings(audits: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What audits warn of, each kind once; of one kind differ the count in front, and classes.

    Of attacks, only what the adaptive attacker's are warned of: others may well be misled.
    """
    told: dict[str, tuple[str, set[str], set[int]]] = {}  # first text, attacks, audits
    for number, found in enumerate(audits):
        texts = [("", text) for text in found["warnings"]]
        for entry in found["attacks"]:
            if entry["setting"] == "adaptive":
                texts += [(entry["attack"], text) for text in entry["warnings"]]
        for attack, text in texts:
            kind = re.sub(r"^\d+|(?<=: class ).*", "", text)
            _, attacks, where = told.setdefault(kind, (text, set(), set()))
            attacks.add(attack)
            where.add(number)
    return tuple(
        f"{text} (in {len(where)} of {len(audits)} audits{_of_attacks(attacks - {''})})"
        for text, attacks, where in told.values()
    )


def _of_attacks(names: set[str]) -> str:
    if not names:
        return ""
    if len(names) > MOST_NAMED:
        return f", of {len(names)} adaptive attacks"
    return f", of the adaptive attack {' and of '.join(sorted(names))}"
