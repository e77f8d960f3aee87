"""A Ray cluster, started here or joined by its address, kept quiet; and pieces of work on it."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from aeppt.evaluation.kept_work import Execute

#: Bytes of a local cluster's shared memory. Results are small; what does not fit goes to disk.
OBJECT_STORE = 128 * 1024**2
#: How often a task is begun again whose worker was killed.
RETRIES = 3
#: Seconds in which an address must answer.
PATIENCE = 5
#: Ray reports its usage, looks for uv and warns of accelerators unless it is asked not to.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_cluster(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Be connected to a Ray cluster inside the ``with`` block.

    Parameters
    ----------
    address : str or None
        ``host:port`` of a cluster, or ``auto`` for the one that runs on this machine. None starts
        one here, which ends with the block. A cluster that this process is connected to already is
        used and left as it is.
    workers : int or None
        How many processes a cluster started here has; as many as there are processors if None.

    Raises
    ------
    ModuleNotFoundError
        Ray is not installed.
    ConnectionError
        No cluster answers at the address, or none could be started.
    """
    try:
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'this needs Ray: pip install "ray[data]", or leave out --engine ray'
        ) from error
    with warnings.catch_warnings():
        # Ray Data warns of its own defaults.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
        if ray.is_initialized():
            yield
            return
        given: dict[str, Any] = {"address": address}
        if address is None:
            given = {
                "address": "local",
                "num_cpus": workers,
                "num_gpus": 0,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",  # whatever network there is
                "object_store_memory": OBJECT_STORE,
            }
        elif address != "auto":
            _check_answers(address)
        try:
            ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            where = (
                "could not be started here" if address is None else f"does not answer at {address}"
            )
            raise ConnectionError(f"a Ray cluster {where}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()


def ray_tasks(workers: int | None = None) -> Execute:
    """Work in tasks of the Ray cluster that this process is connected to.

    A task has one processor. It is begun again where its worker is killed. Results come back to
    this process; where it stops early, tasks are cancelled.

    Parameters
    ----------
    workers : int or None
        How many tasks there are at most at once; twice the cluster's processors if None, so that
        none waits.
    """

    def execute(calls: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        import ray

        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_called)
        most = workers or max(1, int(2 * ray.cluster_resources().get("CPU", 1)))
        waiting = iter(calls)
        running = [task.remote(call) for call in islice(waiting, most)]
        try:
            while running:
                (ready,), running = ray.wait(running)
                running += [task.remote(call) for call in islice(waiting, 1)]
                yield _result(ready)
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)

    return execute


def _called(call: Callable[[], Any]) -> Any:
    return call()


def _result(ready: Any) -> Any:
    import ray

    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # as it was raised, without the worker's traceback
    except ray.exceptions.RayError as error:
        raise worker_lost(error) from error


def worker_lost(error: Exception) -> ChildProcessError:
    """What to say where Ray could not finish a task, though no code of ours failed."""
    reason = str(error).strip().splitlines()[:1]
    return ChildProcessError(
        f"Ray lost its workers ({type(error).__name__}: {''.join(reason)}); "
        "what is finished is kept, and the same command goes on from there"
    )


def _check_answers(address: str) -> None:
    """Refuse soon what Ray would wait a minute for."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ValueError(f"--address must be host:port or auto, got {address!r}")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error
