"""What copies near a record tell: python neighbours.py [--save FILE] [--records N] [--copies R].

A randomized defense whose draws hang on the query must give a record's near copies the same draw:
fresh ones could be averaged. An attacker asks the running gateway for each record and for copies
with Gaussian noise on the inputs, and learns membership, cross-validated, from the greatest
probability: of the one answer, or its mean and spread over the copies.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import predictor
import servers
import uvloop
from load import Client, Form, answered, message
from measurements import facts, save
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import cross_val_predict

from aeppt import PrivacyFunnel
from aeppt.roc import area_under_roc

#: Standard deviations of the copies' noise; inputs have one of one. The first is rounding errors.
NOISES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
ROWS = 1000  # of a request


async def asked(server: servers.Server, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The gateway's answers [n, k] to ``inputs`` [n, d], in large requests."""
    async with Client(Form.binary, server.port(Form.binary)) as client:
        parts = [
            answered(Form.binary, await client.ask(message(Form.binary, chunk)))
            for chunk in np.split(inputs, range(ROWS, len(inputs), ROWS))
        ]
    return np.concatenate(parts)


def near(inputs: NDArray[np.float32], copies: int, noise: float) -> NDArray[np.float32]:
    """Noisy copies [n * copies, d] of ``inputs`` [n, d], a record's after each other."""
    drawn = np.random.default_rng(0).normal(
        scale=noise, size=(len(inputs), copies, inputs.shape[1])
    )
    return (inputs[:, None] + drawn).astype(np.float32).reshape(-1, inputs.shape[1])


def learned(seen: NDArray[np.floating], is_member: NDArray[np.bool_]) -> tuple[float, float, float]:
    """AUC with its 95 % interval of an attacker who learns from what is seen [n, f]."""
    trees = GradientBoostingClassifier(max_depth=2, n_estimators=30, random_state=0)
    scores = cross_val_predict(trees, seen, is_member, cv=5, method="predict_proba")
    return area_under_roc(scores[:, 1], is_member)


def attacked(
    server: servers.Server, inputs: NDArray[np.float32], copies: int, noise: float
) -> dict[str, Any]:
    """What an attacker gains from copies at that distance."""
    is_member = predictor.looks_member(inputs)
    one = uvloop.run(asked(server, inputs))
    several = uvloop.run(asked(server, near(inputs, copies, noise)))
    several = several.reshape(len(inputs), copies, -1)
    greatest = several.max(axis=2).astype(np.float64)
    seen = {
        "one answer": one.max(axis=1, keepdims=True),
        "mean and spread": np.stack([greatest.mean(axis=1), greatest.std(axis=1)], axis=1),
    }
    aucs = {name: [round(x, 4) for x in learned(of, is_member)] for name, of in seen.items()}
    same = (greatest == one.max(axis=1)[:, None]).mean()
    return {"noise": noise, "same_codeword": round(float(same), 4), "auc": aucs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=50)
    arguments = parser.parse_args()
    inputs = servers.queries(arguments.records, seed=5)
    bare = predictor.probabilities(inputs).max(axis=1, keepdims=True)
    undefended = learned(bare, predictor.looks_member(inputs))
    report: dict[str, Any] = {
        **facts(),
        "records": arguments.records,
        "copies": arguments.copies,
        "undefended": [round(x, 4) for x in undefended],
        "found": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "defense.safetensors"
        servers.fitted(PrivacyFunnel(random_state=0)).save(path)
        with servers.classifier() as model, servers.gateway(model, "grpc-v2", path) as gateway:
            for noise in NOISES:
                report["found"].append(attacked(gateway, inputs, arguments.copies, noise))
                print(report["found"][-1], file=sys.stderr, flush=True)
    if arguments.save:
        save(report, arguments.save)


if __name__ == "__main__":
    main()
