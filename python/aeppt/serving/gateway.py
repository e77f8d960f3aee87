"""The gateway: a KServe model that asks a predictor and lets out only what is protected.

:meth:`Gateway.__call__` is the one way in and out, for every protocol: a request is checked, sent
on, and its answer goes through :class:`aeppt.serving.outputs.Release`. Nothing else in this package
hands out what a predictor said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.model import InferenceVerb
from kserve.utils.numpy_codec import from_np_dtype
from numpy.typing import NDArray

from aeppt.serving.outputs import Protection, Release
from aeppt.serving.pacing import Pace
from aeppt.serving.predictors import Predictor, Specs
from aeppt.serving.refusals import Reason, RefusedError, invalid, unusable
from aeppt.serving.telemetry import Metrics

#: More numbers than this are protected in a thread, so that other requests need not wait.
INLINE_SIZE = 2048


class Gateway(Model):
    """A KServe transformer whose answers leave only through a defense.

    Parameters
    ----------
    name : str
        The model's name.
    predictor : Predictor
        Who is asked.
    release : Release
        What leaves of an answer.
    metrics : Metrics
        Where the work is counted.
    max_rows : int
        The most rows that a request may have.
    pace : Pace or None
        How long answers are held, so that their time tells nothing; None, and they are not.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        release: Release,
        metrics: Metrics,
        max_rows: int,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(name)
        self._predictor = predictor
        self._release = release
        self._metrics = metrics
        self._max_rows = max_rows
        self._pace = pace
        self.ready = True

    async def __call__(
        self,
        body: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[Any, dict[str, str]]:
        """The protected answer to a V1 request (a dictionary) or a V2 request, and no headers.

        Arrays in it are NumPy's.

        Raises
        ------
        RefusedError
            There is no answer that may leave.
        """
        if verb is not InferenceVerb.PREDICT:
            raise RefusedError(Reason.NOT_FOUND, "predictions only")
        if isinstance(body, InferRequest):
            return await self._infer(body), {}
        return await self._predict(body), {}

    async def _infer(self, request: InferRequest) -> InferResponse:
        requested = checked_request(request, self._release.names, self._max_rows)
        answer = await self._predictor.infer(request)
        arrays = _arrays(answer.outputs, self._release.names)
        released, protection = await self._protected(
            partial(self._release.tensors, arrays, requested),
            sum(array.size for array in arrays.values()),
        )
        self._metrics.count(protection)
        outputs = [
            InferOutput(name, list(array.shape), from_np_dtype(array.dtype), array)
            for name, array in released.items()
        ]
        return InferResponse(request.id, self.name, outputs)

    async def _predict(self, request: dict[str, Any]) -> dict[str, Any]:
        instances = request.get("instances") if isinstance(request, dict) else None
        if not isinstance(instances, list) or not instances:
            raise invalid('"instances" must be a list with at least one entry')
        _check_rows(len(instances), self._max_rows)
        predictions = await self._predictor.predict(request)
        released, protection = await self._protected(
            partial(self._release.predictions, predictions, len(instances)),
            len(instances) * self._release.defense.n_features_in_,
        )
        self._metrics.count(protection)
        return {"predictions": released}

    async def _protected(self, protect: partial[tuple[Any, Protection]], size: int) -> Any:
        started = time.perf_counter()
        released = protect() if size <= INLINE_SIZE else await asyncio.to_thread(protect)
        if self._pace is not None:
            await self._pace.hold(started, released[1].rows)
        return released

    async def healthy(self) -> bool:
        """Whether the predictor can be asked."""
        return self.ready and await self._predictor.ready()

    async def get_input_types(self) -> Specs:
        """Names, datatypes and shapes of the predictor's inputs."""
        return (await self._predictor.metadata())[0]

    async def get_output_types(self) -> Specs:
        """Names, datatypes and shapes of the outputs that may leave."""
        outputs = (await self._predictor.metadata())[1]
        return [spec for spec in outputs if spec["name"] in self._release.names]


def checked_request(request: InferRequest, names: frozenset[str], max_rows: int) -> list[str]:
    """The names of the outputs that a V2 request names, all of them among ``names``.

    Raises
    ------
    RefusedError
        The request is not valid, too large, or asks for what may not leave.
    """
    if not request.inputs:
        raise invalid("there are no inputs")
    for tensor in request.inputs:
        if not isinstance(tensor.name, str) or not isinstance(tensor.datatype, str):
            raise invalid("an input's name or datatype is not a string")
        if not _is_shape(tensor.shape):
            raise invalid("an input's shape is not a list of sizes")
        _check_rows(tensor.shape[0] if tensor.shape else 1, max_rows)
        _check_parameters(tensor.parameters or {})
    _check_parameters(request.parameters or {})
    requested = [output.name for output in request.request_outputs or []]
    for output in request.request_outputs or []:
        if not isinstance(output.name, str) or output.name not in names:
            raise invalid("an output was asked for that this gateway does not release")
        # Others make a predictor answer in another form, or in shared memory.
        if set(output.parameters or {}) - {"binary_data"}:
            raise invalid("an output may have no parameter but binary_data")
    return requested


def rows_of(shape: Sequence[int]) -> int:
    """How many rows an output of this shape has; a lone row has no axis for them."""
    return shape[0] if len(shape) > 1 else 1


def _check_rows(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise RefusedError(
            Reason.TOO_LARGE, f"the request has {rows} rows, at most {max_rows} may be"
        )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name.startswith("shared_memory"):
            raise invalid("shared memory cannot be used through this gateway")
        if value is None or isinstance(value, dict | list):
            raise invalid("a parameter must be a string, a number or a boolean")


def _arrays(outputs: list[InferOutput], names: frozenset[str]) -> dict[str, NDArray]:
    """The arrays of those outputs that may leave; the others are not even decoded."""
    try:
        with np.errstate(all="ignore"):  # what is no number any more is refused later
            return {output.name: _array(output) for output in outputs if output.name in names}
    except Exception:  # NumPy and kserve raise what they like at a bad answer
        raise unusable("an output's data do not fit its datatype and shape") from None


def _array(output: InferOutput) -> NDArray:
    if not _is_shape(output.shape):
        raise ValueError("not a shape")
    array: NDArray = output.as_numpy()
    return array


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
