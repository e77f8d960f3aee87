"""Writes answers.json: saved defenses, given rows, and what this version answers.

test_replicas.py holds every later version to them. Run it again only where a version means to
change its answers, and say so in CHANGELOG.md: replicas of both versions cannot serve together.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import aeppt
from aeppt.defenses import DEFENSES, with_key

#: Every defense that is random, and AEPPT; small, so that the file is.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "AEPPT": [{"hidden": (4,)}],
    "DynaNoise": [{"random_state": 0}],
    "GaussianNoise": [{"random_state": 0}, {"space": "prob", "scale": 0.2, "random_state": 0}],
    "HAMPOutput": [{"random_state": 0}],
    "MemGuard": [{"hidden": (4,), "budget": 0.2, "random_state": 0}],
    "NeighborhoodBlending": [{"n_neighbors": 3, "epsilon": 10.0, "random_state": 0}],
    "PrivacyFunnel": [{"confidence_levels": 2, "shapes": 2, "random_state": 0}],
}
KEY = bytes(range(32))
DECIMALS = 12


def main() -> None:
    """Fit, save, give each the key, and ask."""
    rng = np.random.default_rng(0)
    members = rng.dirichlet([9.0, 1, 1, 1], 30)
    others = rng.dirichlet([4.0, 2, 1, 1], 30)
    rows = np.round(np.concatenate([members[:8], others[:8]]), 6)
    rows[:, 0] += 1 - rows.sum(axis=1)
    rows = np.concatenate([rows, [[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.4, 0.4, 0.2, 0]]])
    written = []
    for name, sets in PARAMETERS.items():
        for parameters in sets:
            defense = DEFENSES[name](**parameters)
            probs = np.concatenate([members, others]).astype(np.float32)
            defense.fit(probs, [1] * 30 + [0] * 30)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "defense.safetensors"
                defense.save(file)
                saved = file.read_bytes()
            keyed = defense if name == "AEPPT" else with_key(defense, KEY)
            written.append(
                {
                    "defense": name,
                    "saved": base64.b64encode(saved).decode(),
                    "answers": keyed.protect(rows).round(DECIMALS).tolist(),
                }
            )
    golden = {
        "aeppt": aeppt.__version__,
        "key": KEY.hex(),
        "rows": rows.tolist(),
        "defenses": written,
    }
    Path(__file__).with_name("answers.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
