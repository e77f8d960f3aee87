"""Files and folders of predictions, protected on this machine or over Ray Data.

Each file of a folder gives one file of the same name. It appears complete or not at all, so that
rows out are checked against rows in file by file, a worker that is killed loses nothing but its
unfinished file, and a run that was stopped goes on where it was.

Over Ray, the rows of the data set are the files, and a task protects one of them in chunks, as on
one machine. Ray Data deals tasks to workers, keeps a bounded number of them in flight and begins
those anew whose worker is lost. The rows of the files do not travel through Ray: its data sinks
name their files after its own blocks and write each block whole, which gives neither the layout nor
bounded memory for a file of one huge row group. So a worker holds one chunk, however large a file
is; and one file alone is protected by one worker.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from aeppt.data.reading import reading
from aeppt.data.tables import OnRows, count_rows, protect_file
from aeppt.defenses import OutputDefense, with_key
from aeppt.defenses.base import protect_strictly
from aeppt.defenses.storage import load_defense
from aeppt.files import check_folders
from aeppt.serving.cluster import ray_cluster, worker_lost

#: In a protected file of a folder: by which defense it was made, key included, and of which file.
MARK = "aeppt.protected"
NAMED = 3  # files that one error names

#: Called as ``on_progress(what, done, total)``; a total of 0 is not known.
Progress = Callable[[str, int, int], None]


@dataclass
class Totals:
    """What was done to rows; adds up over chunks and files."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    l1: float = 0.0  # summed over rows

    def add(self, other: Totals) -> None:
        """Count the rows of ``other`` as well."""
        self.rows += other.rows
        self.statuses += other.statuses
        self.l1 += other.l1


@dataclass
class Protection:
    """What :func:`protect_files` did: rows and files now, and those finished by earlier runs."""

    totals: Totals
    files: int
    kept_rows: int = 0
    kept_files: int = 0


@dataclass(frozen=True)
class _Job:
    """One file to protect; ``mark`` tells later runs what it was made of."""

    source: Path
    destination: Path
    mark: str | None = None


@dataclass(frozen=True)
class _Outcome:
    """Either what was done to a file, or why nothing was."""

    totals: Totals
    error: str | None = None


def protect_files(
    source: str | Path,
    destination: str | Path,
    defense: str | Path,
    key: bytes | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Protection:
    """Protect a file of predictions, or every Parquet file of a folder and its subfolders.

    In a folder, a destination that is finished for the same defense, key and source (name, size
    and time of change) is left as it is; one of another defense or source is made anew. A file
    that cannot be protected does not keep others from it.

    Parameters
    ----------
    source : path
        A file as for :func:`aeppt.data.tables.protect_file`, or a folder of ``.parquet`` files.
        Names that begin with a dot or an underscore are left aside.
    destination : path
        Of the same kind; a folder is made if missing.
    defense : path
        A saved defense.
    key : bytes or None
        A secret key, as for :func:`aeppt.defenses.with_key`, in place of the saved one.
    engine : {"local", "ray"}
        Whether this process works, file by file, or a Ray cluster.
    address, workers
        Of the cluster, as for :func:`aeppt.serving.cluster.ray_cluster`; ``workers`` also limits
        how many tasks run at once on a cluster that is joined. The files must be at the same paths
        for every worker.
    on_progress : callable or None

    Returns
    -------
    Protection

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        A file, or the folder for one, is missing; or a folder's destination is a file.
    ValueError
        A folder holds no Parquet file or others as well, the folders lie inside each other, a file
        of the destination is in the way, or files could not be protected; the message names them.
    ModuleNotFoundError, ConnectionError
        As :func:`aeppt.serving.cluster.ray_cluster`.
    ChildProcessError
        Ray lost the whole cluster, or too many workers.
    """
    source, destination, defense = Path(source), Path(destination), Path(defense)
    fitted = load_defense(defense)
    if key is not None:
        fitted = with_key(fitted, key)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    tell = on_progress or (lambda what, done, total: None)
    on_rows: OnRows | None = None
    if source.is_dir():
        planned = _plan(source, destination, defense.read_bytes() + (key or b""))
        kept = {job: rows for job in planned if (rows := _finished_rows(job)) is not None}
        jobs = [job for job in planned if job not in kept]
    else:
        check_folders(destination)
        kept, jobs = {}, [_Job(source, destination)]
        total = count_rows(source) or 0
        on_rows = lambda rows: tell("protecting rows", rows, total)  # noqa: E731
    done = Protection(Totals(), 0, sum(kept.values()), len(kept))
    errors = []
    is_ray = engine == "ray" and len(jobs) > 0
    work = _over_ray(jobs, fitted, workers) if is_ray else _here(jobs, fitted, on_rows)
    try:
        with ray_cluster(address, workers) if is_ray else nullcontext():
            for outcome in work:
                if outcome.error is not None:
                    errors.append(outcome.error)
                else:
                    done.totals.add(outcome.totals)
                    done.files += 1
                if source.is_dir():
                    count = done.kept_files + done.files + len(errors)
                    tell("protecting files", count, len(kept) + len(jobs))
    finally:
        if source.is_dir():
            _remove_unfinished(jobs, destination)
    if errors:
        raise ValueError(_told(sorted(errors), len(jobs)))
    return done


def _plan(source: Path, destination: Path, made_by: bytes) -> list[_Job]:
    """A job per file of the folder, in the order of their names; folders for them are made."""
    inside, outside = source.resolve(), destination.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        raise ValueError(f"{destination} and {source} must not be the same nor inside each other")
    if destination.exists() and not destination.is_dir():
        raise NotADirectoryError(f"{destination} must be a folder, as {source} is")
    files = [
        file
        for file in sorted(source.rglob("*"))
        if file.is_file() and not any(n[0] in "._" for n in file.relative_to(source).parts)
    ]
    for file in files:
        if file.suffix != ".parquet":
            raise ValueError(f"{file} must end in .parquet: of a folder, every file is protected")
    if not files:
        raise ValueError(f"{source} holds no .parquet file")
    by = hashlib.sha256(made_by)
    jobs = []
    for file in files:
        name, stat, mark = file.relative_to(source), file.stat(), by.copy()
        mark.update(f"{name.as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
        jobs.append(_Job(file, destination / name, mark.hexdigest()))
    for folder in {job.destination.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _finished_rows(job: _Job) -> int | None:
    """How many rows the destination has, where it is this very job's; None if it is to be made."""
    assert job.mark is not None
    if not job.destination.exists():
        return None
    with reading(job.destination):
        about = pyarrow.parquet.read_metadata(job.destination)
    marked = (about.metadata or {}).get(MARK.encode())
    if marked is None:
        raise ValueError(
            f"{job.destination} is in the way: it was not made from a folder by aeppt; move it, or "
            "choose another folder"
        )
    return int(about.num_rows) if marked == job.mark.encode() else None


def _here(
    jobs: Sequence[_Job], defense: OutputDefense, on_rows: OnRows | None
) -> Iterator[_Outcome]:
    for job in jobs:
        yield _protected(job, defense, on_rows)


def _over_ray(
    jobs: Sequence[_Job], defense: OutputDefense, workers: int | None
) -> Iterator[_Outcome]:
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are ours to tell
    rows = [
        {
            "source": str(job.source.absolute()),
            "destination": str(job.destination.absolute()),
            "mark": job.mark,
        }
        for job in jobs
    ]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        partial(_protected_row, defense=defense),
        num_cpus=1,
        concurrency=workers,
    )
    try:
        for row in outcomes.iter_rows():
            statuses = Counter(json.loads(row["statuses"]))
            yield _Outcome(Totals(row["rows"], statuses, row["l1"]), row["error"])
    except ray.exceptions.RayError as error:
        raise worker_lost(error) from error


def _protected_row(row: dict[str, Any], defense: OutputDefense) -> dict[str, Any]:
    """What a worker does: a row of the data set of files in, its outcome out."""
    job = _Job(Path(row["source"]), Path(row["destination"]), row["mark"])
    totals, error = vars(_protected(job, defense)).values()
    statuses = json.dumps(totals.statuses)  # a column of one type, whichever statuses there are
    return {"rows": totals.rows, "statuses": statuses, "l1": totals.l1, "error": error}


def _protected(job: _Job, defense: OutputDefense, on_rows: OnRows | None = None) -> _Outcome:
    totals = Totals()

    def protect(probs: NDArray[np.floating]) -> NDArray[np.floating]:
        protected, info = protect_strictly(defense, probs)
        l1 = float(info.l1.sum(dtype=np.float64))
        totals.add(Totals(len(probs), Counter(info.status_counts()), l1))
        return protected

    metadata = None if job.mark is None else {MARK: job.mark}
    try:
        protect_file(job.source, job.destination, protect, on_rows, metadata)
    except (OSError, TypeError, ValueError) as error:
        return _Outcome(Totals(), str(error))
    return _Outcome(totals)


def _remove_unfinished(jobs: Sequence[_Job], destination: Path) -> None:
    """Remove what killed workers, of this run or an earlier one, left of their files."""
    wanted = {job.destination for job in jobs}
    for file in destination.rglob(".*.parquet.*"):
        if file.with_name(file.name[1:].rpartition(".")[0]) in wanted:
            file.unlink(missing_ok=True)


def _told(errors: Sequence[str], files: int) -> str:
    if files == 1:
        return errors[0]
    more = f"; and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
    return (
        f"{len(errors)} of {files} files could not be protected, the others are: "
        f"{'; '.join(errors[:NAMED])}{more}"
    )
