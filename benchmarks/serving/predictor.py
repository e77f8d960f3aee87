"""A small classifier of 100 classes behind KServe: predictor.py --http_port N --grpc_port N.

What the gateway is measured in front of. Its input is FP32 [n, 32], its output probabilities FP32
[n, 100]. Rows whose first input is positive are answered as an overfitted model answers its
members: surer than the others, which makes them worth attacking.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
from kserve import InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.utils.utils import get_predict_response
from numpy.typing import NDArray

INPUTS, CLASSES = 32, 100
MEMBER_SCALE, OTHER_SCALE = 1.3, 0.7
_WEIGHTS = np.random.default_rng(0).normal(size=(INPUTS, CLASSES)).astype(np.float32)


def looks_member(inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows [n] the model answers as if it had been trained on them."""
    members: NDArray[np.bool_] = inputs[:, 0] > 0
    return members


def probabilities(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model: inputs [n, 32] in, probabilities [n, 100] out; a row's answer is its own."""
    scale = np.where(looks_member(inputs), MEMBER_SCALE, OTHER_SCALE).astype(np.float32)
    # Not a matrix product, which may round a row differently in another batch.
    logits = scale[:, None] * np.einsum("ni,ik->nk", inputs, _WEIGHTS)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
    return result


class Classifier(Model):
    """The model as KServe wants it."""

    def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Answer one request, in the form in which it came."""
        response: InferResponse = get_predict_response(
            payload, probabilities(payload.inputs[0].as_numpy()), self.name
        )
        return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[model_server.parser])
    model = Classifier(parser.parse_args().model_name)
    model.load()
    ModelServer().start([model])


if __name__ == "__main__":
    main()
