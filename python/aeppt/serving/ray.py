"""Ray Serve in front of a model: every replica answers through the same saved defense."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aeppt.defenses.storage import load_defense
from aeppt.models.protected import ProtectedFunction

#: Features [n, ...] to probabilities [n, k].
Predict = Callable[[NDArray], ArrayLike]
#: What a client is told, and no more: an error's text may hold what the model said.
FAILED = "the prediction failed, or could not be protected"

logger = logging.getLogger(__name__)


class ProtectedDeployment:
    """What a replica is: a model behind a defense.

    A request over HTTP is JSON ``{"instances": features}``, its answer ``{"predictions": rows}``;
    400 where the request is no such JSON, 500 where the model or the defense fails.
    """

    def __init__(self, model: str | Predict, defense: str | Path) -> None:
        predict = _imported(model) if isinstance(model, str) else model
        self.protected = ProtectedFunction(
            lambda features: np.asarray(predict(features)), load_defense(defense)
        )

    def predict_proba(self, features: ArrayLike) -> NDArray[np.floating]:
        """Protected probabilities [n, k] for ``features`` [n, ...]; for calls by a handle.

        Raises
        ------
        RuntimeError
            The model or the defense failed. There is no prediction then; the replica's log says
            why.
        """
        try:
            return self.protected(np.asarray(features))
        except Exception:
            logger.exception(FAILED)
            raise RuntimeError(FAILED) from None

    async def __call__(self, request: Any) -> Any:
        """The answer to one request over HTTP."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        try:
            features = np.asarray((await request.json())["instances"])
            if features.dtype.kind not in "biuf" or features.size == 0 or features.ndim == 0:
                raise ValueError("no rows of numbers")
        except (IndexError, KeyError, TypeError, ValueError):
            told = 'the body must be {"instances": features}, numbers of at least one row'
            return JSONResponse({"error": told}, 400)
        try:
            rows = await run_in_threadpool(self.predict_proba, features)
        except RuntimeError as error:
            return JSONResponse({"error": str(error)}, 500)
        return JSONResponse({"predictions": rows.tolist()})


def protected_app(model: str | Predict, defense: str | Path, replicas: int = 1) -> Any:
    """An application for ``serve.run``: a model whose predictions leave only through a defense.

    Parameters
    ----------
    model : callable or str
        From features [n, ...] to probabilities [n, k], as the defense was fitted on; or its import
        path ``module:name``, which each replica imports. A callable is pickled.
    defense : path
        A saved defense, read by each replica: all have the same key, so all give the same answer.
    replicas : int

    Raises
    ------
    ModuleNotFoundError
        Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ModuleNotFoundError('this needs Ray Serve: pip install "ray[serve]"') from error
    deployment: Any = serve.deployment(ProtectedDeployment, num_replicas=replicas)
    return deployment.bind(model, str(Path(defense).absolute()))


def _imported(path: str) -> Predict:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"model must be module:name, got {path!r}")
    found: Predict = getattr(import_module(module), name)
    return found
