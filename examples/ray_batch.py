"""A folder of Parquet files of predictions, protected over Ray: rows in, rows out.

    python ray_batch.py

Needs the extra scale. Works in a temporary folder. The command line does the same:

    aeppt protect given/ protected/ --defense defense.safetensors --engine ray
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from aeppt import PrivacyFunnel
from aeppt.serving.batch import protect_files

FILES, ROWS, CLASSES = 8, 5_000, 10
COLUMNS = [f"p{place}" for place in range(CLASSES)]


def main() -> None:
    """Write the folder, fit, protect, and compare what came out with the defense's own answers."""
    rng = np.random.default_rng(0)
    # Stands for a model that is surer of the records that it was trained on.
    members, others = (rng.dirichlet([sure] + [1] * (CLASSES - 1), 500) for sure in (30, 8))
    # The seed makes this example repeatable. In production leave it out: the key is secret then.
    defense = PrivacyFunnel(random_state=0)
    defense.fit(np.concatenate([members, others]), np.arange(1000) < 500)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given, protected = folder / "given", folder / "protected"
        given.mkdir()
        for number in range(FILES):
            table = pd.DataFrame(rng.dirichlet([8] + [1] * (CLASSES - 1), ROWS), columns=COLUMNS)
            table.insert(0, "id", np.arange(ROWS) + number * ROWS)  # is carried along
            table.to_parquet(given / f"part-{number}.parquet")
        defense.save(folder / "defense.safetensors")

        done = protect_files(
            given, protected, folder / "defense.safetensors", engine="ray", workers=2
        )
        print(f"rows in: {FILES * ROWS:,}   rows out: {done.totals.rows:,}   files: {done.files}")
        print(f"mean L1 change: {done.totals.l1 / done.totals.rows:.3f}")

        before, after = (pd.read_parquet(part).sort_values("id") for part in (given, protected))
        same = np.array_equal(after[COLUMNS], defense.protect(before[COLUMNS].to_numpy()))
        print(f"same records: {np.array_equal(before['id'], after['id'])}")
        print(f"the defense's own answers: {same}")

        # The same command again does what is left: nothing.
        again = protect_files(given, protected, folder / "defense.safetensors", engine="ray")
        print(f"again: {again.files} files protected, {again.kept_files} were finished")


if __name__ == "__main__":
    main()
