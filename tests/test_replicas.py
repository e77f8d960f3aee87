"""The same query has the same answer on every replica: process, engine, processor, version.

What the answers depend on is a saved defense, a key and the row. ``golden/answers.json`` has all
three, and what the version that wrote it answered; a version that answers otherwise must say so in
CHANGELOG.md and write the file anew (``golden/write_answers.py``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aeppt import Predictions, PrivacyFunnel, load_defense
from aeppt.cli import main
from aeppt.data.tables import read_predictions, write_predictions
from aeppt.defenses import DEFENSES, GaussianNoise, OutputDefense, read_key, with_key
from aeppt.defenses.keyed_random import keyed_uniforms
from aeppt_ext import ops
from aeppt_ext.release import uniforms

GOLDEN = json.loads((Path(__file__).parent / "golden" / "answers.json").read_text())
KEY = bytes.fromhex(GOLDEN["key"])
#: How far two engines' answers may lie apart in any entry. The search adds in other orders, and of
#: its float32 rows a small share may take another way (search/test_agreement.py); all else is
#: float64 inside, and PrivacyFunnel the same to the last bit.
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-9}
MOST_FLIPS = 0.005
SEARCHES = ("AEPPT", "MemGuard")


def defense_of(entry: dict[str, Any], folder: Path) -> OutputDefense:
    """The golden entry's defense, read from its file, with the golden key."""
    file = folder / f"{hashlib.sha256(entry['saved'].encode()).hexdigest()}.safetensors"
    file.write_bytes(base64.b64decode(entry["saved"]))
    defense = load_defense(file)
    return with_key(defense, KEY) if "key" in defense.module_.state_dict() else defense


def assert_same(name: str, left: NDArray[np.floating], right: NDArray[np.floating]) -> None:
    assert left.dtype == right.dtype
    if name == "PrivacyFunnel":
        assert np.array_equal(left, right)
        return
    apart = (np.abs(left - right) > TOLERANCES[left.dtype.type]).any(axis=1)
    is_search = name in SEARCHES and left.dtype == np.float32
    assert apart.mean() <= (MOST_FLIPS if is_search else 0), (name, apart.nonzero())


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    """Rows of 4 classes, from unsure to one-hot."""
    rng = np.random.default_rng(1)
    drawn = rng.dirichlet([3.0, 1, 1, 0.5], 400)
    return np.concatenate([GOLDEN["rows"], drawn])


# --- versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", GOLDEN["defenses"], ids=lambda entry: entry["defense"])
def test_answers_are_those_of_the_version_that_wrote_them(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    answers = defense_of(entry, tmp_path).protect(np.array(GOLDEN["rows"]))
    changed = np.abs(answers - np.array(entry["answers"])).max(axis=1) > TOLERANCES[np.float64]
    assert not changed.any(), (
        f"{entry['defense']} answers rows {changed.nonzero()[0].tolist()} otherwise than aeppt "
        f"{GOLDEN['aeppt']} did; if that is meant, say so in CHANGELOG.md"
    )


def test_every_random_defense_is_held_to_its_answers() -> None:
    # By convention, random_state defaults to None where it seeds a key.
    seeds = {name: kind().get_params().get("random_state", 0) for name, kind in DEFENSES.items()}
    random = {name for name, seed in seeds.items() if seed is None}
    assert random | {"AEPPT"} == {entry["defense"] for entry in GOLDEN["defenses"]}


# --- processes, engines, instruction sets, processors -----------------------------------------

#: Forks once for each replica, since importing torch takes longest; aeppt loads in each anew.
REPLICAS = """
import json, os, sys, traceback
import numpy, torch, scipy.stats, scipy.optimize, sklearn.ensemble, sklearn.neural_network, pandas

def serve(environment, answers):
    os.environ.update(environment)
    if environment.get("engine") == "reference":
        sys.modules["aeppt_ext._C"] = None
    import warnings
    warnings.simplefilter("ignore")
    from aeppt import load_defense
    from aeppt_ext import ops
    assert (ops.compiled is None) == (environment.get("engine") == "reference")
    if "AEPPT_ISA" in environment:
        assert ops.compiled.instruction_set() == environment["AEPPT_ISA"]
    rows = numpy.load("rows.npy")
    numpy.savez(answers, **{
        f"{file} {dtype}": load_defense(file).protect(rows.astype(dtype))
        for file in sorted(f for f in os.listdir() if f.endswith(".safetensors"))
        for dtype in ("float32", "float64")
    })

for name, environment in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        try:
            serve(environment, name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"replica {name} failed")
"""


@pytest.mark.slow
def test_replicas_answer_alike(rows: NDArray[np.float64], tmp_path: Path) -> None:
    """Saved, and read by processes that compute in every way that this processor can.

    ``emulated`` computes in the order of the CUDA kernels, ``baseline`` without vectors.
    """
    replicas = {"reference": {"engine": "reference"}}
    sets = {} if ops.compiled is None else ops.compiled.instruction_sets()
    replicas |= {name: {"AEPPT_ISA": name} for name, runs in sets.items() if runs}
    if "baseline" in replicas:
        replicas["baseline"]["ATEN_CPU_CAPABILITY"] = "default"  # the same of torch itself
    expected: dict[str, tuple[str, NDArray[np.floating]]] = {}
    (tmp_path / "given").mkdir()
    for place, entry in enumerate(GOLDEN["defenses"]):
        defense = defense_of(entry, tmp_path / "given")
        defense.save(tmp_path / f"{place}.safetensors")
        for dtype in ("float32", "float64"):
            answers = defense.protect(rows.astype(dtype))
            expected[f"{place}.safetensors {dtype}"] = entry["defense"], answers
    np.save(tmp_path / "rows.npy", rows)
    subprocess.run(
        [sys.executable, "-c", REPLICAS, json.dumps(replicas)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
        check=True,
    )
    for replica in replicas:
        answered = np.load(tmp_path / f"{replica}.npz")
        assert set(answered.files) == set(expected)
        for name, (defense_name, answers) in expected.items():
            assert_same(defense_name, answered[name], answers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("entry", GOLDEN["defenses"], ids=lambda entry: entry["defense"])
def test_a_gpu_answers_alike(
    entry: dict[str, Any], rows: NDArray[np.float64], tmp_path: Path
) -> None:
    defense = defense_of(entry, tmp_path)
    for dtype in (np.float32, np.float64):
        expected = defense.protect(rows.astype(dtype))
        moved = defense_of(entry, tmp_path)
        moved.module_.to("cuda")
        given = torch.from_numpy(rows.astype(dtype)).to("cuda")
        assert_same(entry["defense"], moved.protect(given).cpu().numpy(), expected)


# --- replicas of the model that round otherwise -----------------------------------------------


def off_by(rows: NDArray[np.float64], nats: float) -> NDArray[np.float64]:
    """Rows as a replica computes them whose logits differ by ``nats`` up or down."""
    signs = np.random.default_rng(2).choice([-1.0, 1.0], rows.shape)
    return rows * np.exp(nats * signs)


#: Buckets are so many nats wide, in units of √k logits.
WIDTH = 2 * np.log(2)


#: By how many nats a logit differs.
@pytest.mark.parametrize("nats", [1e-6, 1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("draw", ["shake", "siphash"])
def test_a_draw_changes_only_where_a_projection_crosses_a_buckets_border(
    draw: str, nats: float
) -> None:
    k, n = 10, 4000
    given = np.random.default_rng(3).dirichlet(np.full(k, 2.0), n)
    left, right = torch.from_numpy(given), torch.from_numpy(off_by(given, nats))
    label_stays = left.argmax(1) == right.argmax(1)
    key = torch.tensor(list(KEY), dtype=torch.uint8)
    if draw == "shake":
        same = keyed_uniforms(key, left, 1)[:, 0] == keyed_uniforms(key, right, 1)[:, 0]
    else:
        same = uniforms(key[:16], left) == uniforms(key[:16], right)
    changed = 1 - same[label_stays].double().mean().item()
    # A sum of k signed differences of `nats` is about normal, and E|x| of a normal x is 0.8 σ. Each
    # of four projections crosses a border with probability |sum| / (√k WIDTH).
    expected = 1 - (1 - np.sqrt(2 / np.pi) * nats / WIDTH) ** 4
    assert abs(changed - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 0.1 * expected


def test_answers_of_replicas_that_round_otherwise_differ_as_rarely(known: Predictions) -> None:
    defense = PrivacyFunnel(random_state=0).fit_predictions(known)
    rng = np.random.default_rng(4)
    given = rng.dirichlet(np.full(5, 2.0), 20_000)
    nats = 1e-3
    other = off_by(given, nats)
    other /= other.sum(axis=1, keepdims=True)
    differ = (defense.protect(given) != defense.protect(other)).any(axis=1)
    assert 0 < differ.mean() < 1.5 * 4 * nats / (WIDTH * 5 / 8)  # narrower for fewer than 8 classes


# --- changing the key -------------------------------------------------------------------------


def test_another_key_gives_other_draws_and_the_same_key_the_same(known: Predictions) -> None:
    defense = PrivacyFunnel(random_state=0).fit_predictions(known)
    before = defense.protect(known.probs)
    first, again, second = (with_key(defense, key) for key in (KEY, KEY, KEY[::-1]))
    assert np.array_equal(first.protect(known.probs), again.protect(known.probs))
    assert not np.array_equal(first.protect(known.probs), second.protect(known.probs))
    assert not np.array_equal(first.protect(known.probs), before)
    assert np.array_equal(defense.protect(known.probs), before), "the given defense was changed"
    assert first.get_params()["random_state"] is None


def test_two_keys_can_tell_what_one_does_not() -> None:
    """Why a key is changed rarely: the limit on one codeword says nothing of two."""
    chances = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])  # of two codewords, in three cells
    members, others = np.array([0.0, 1.0, 0.0]), np.array([0.5, 0.0, 0.5])  # shares of the cells

    def advantage(keys: int) -> float:
        seen = chances if keys == 1 else np.einsum("ca,cb->cab", chances, chances).reshape(3, -1)
        return float(np.abs(members @ seen - others @ seen).sum()) / 4

    assert advantage(1) == 0.0
    assert advantage(2) == 0.25


def test_one_key_gives_two_defenses_independent_draws(known: Predictions) -> None:
    keys = {
        bytes(with_key(kind().fit(known.probs, known.is_member), KEY).module_.key.tolist())
        for kind in (GaussianNoise, DEFENSES["DynaNoise"], PrivacyFunnel)
    }
    assert len(keys) == 3
    assert KEY not in keys


def test_a_keyed_defense_does_not_show_the_key(known: Predictions, tmp_path: Path) -> None:
    defense = with_key(GaussianNoise().fit(known.probs, known.is_member), KEY)
    defense.save(tmp_path / "d.safetensors")
    shown = f"{defense!r} {defense.module_!r} {vars(defense)}".encode()
    for content in (shown, (tmp_path / "d.safetensors").read_bytes()):
        assert KEY not in content
        assert KEY.hex().encode() not in content
    loaded = load_defense(tmp_path / "d.safetensors")
    assert np.array_equal(loaded.protect(known.probs), defense.protect(known.probs))


def test_a_defense_without_a_key_and_a_key_of_another_length_are_refused(
    known: Predictions,
) -> None:
    rounding = DEFENSES["Rounding"]().fit(known.probs, known.is_member)
    with pytest.raises(ValueError, match="Rounding takes no key"):
        with_key(rounding, KEY)
    noise = GaussianNoise().fit(known.probs, known.is_member)
    for key in (b"", KEY[:16], KEY + b"0"):
        with pytest.raises(ValueError, match=f"must be 32 bytes, got {len(key)}"):
            with_key(noise, key)


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode(), KEY.hex().upper().encode() + b"\n", KEY.hex().encode() + b"\r\n"],
)
def test_a_key_is_read_from_digits_or_raw_bytes(content: bytes) -> None:
    assert read_key(content) == KEY


@pytest.mark.parametrize(
    "content", [b"", b"secret", b"5ecre7" * 11, KEY.hex().encode() + b"\n\n", KEY + b"\n"]
)
def test_what_is_no_key_is_refused_and_not_shown(content: bytes) -> None:
    with pytest.raises(ValueError, match=f"64 hexadecimal digits.* got {len(content)} bytes") as no:
        read_key(content)
    assert "ecre" not in str(no.value)
    assert KEY.hex()[:8] not in str(no.value)


# --- the command line -------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line in this process: its exit code and all that it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["aeppt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return call


def test_a_key_file_is_secret_fresh_and_never_overwritten(run: Any, tmp_path: Path) -> None:
    files = tmp_path / "a.key", tmp_path / "b.key"
    for file in files:
        code, printed = run("key", file)
        assert code == 0
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text().strip() not in printed
    first, second = (read_key(file.read_bytes()) for file in files)
    assert first != second
    code, printed = run("key", files[0])
    assert code == 2
    assert "exists" in printed
    assert read_key(files[0].read_bytes()) == first


def test_the_command_line_protects_with_a_key(run: Any, known: Predictions, tmp_path: Path) -> None:
    defense = PrivacyFunnel(random_state=0).fit_predictions(known)
    defense.save(tmp_path / "d.safetensors")
    write_predictions(tmp_path / "in.npz", known)
    (tmp_path / "key").write_text(KEY.hex())
    ways = tmp_path / "in.npz", tmp_path / "out.npz", "--defense", tmp_path / "d.safetensors"
    code, printed = run("protect", *ways, "--key-file", tmp_path / "key")
    assert code == 0, printed
    assert KEY.hex() not in printed
    expected = with_key(defense, KEY).protect(known.probs)
    assert np.array_equal(read_predictions(tmp_path / "out.npz").probs, expected)
    (tmp_path / "key").write_text(KEY.hex()[:-1])
    code, printed = run("protect", *ways, "--key-file", tmp_path / "key")
    assert code == 2
    assert f"{tmp_path / 'key'}: a key is 64 hexadecimal digits" in printed
    assert KEY.hex()[:16] not in printed


def test_a_key_may_come_by_the_environment(
    run: Any, known: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = PrivacyFunnel(random_state=0).fit_predictions(known)
    defense.save(tmp_path / "d.safetensors")
    write_predictions(tmp_path / "in.npz", known)
    ways = tmp_path / "in.npz", tmp_path / "out.npz", "--defense", tmp_path / "d.safetensors"
    monkeypatch.setenv("AEPPT_KEY", KEY.hex())
    assert run("protect", *ways)[0] == 0
    expected = with_key(defense, KEY).protect(known.probs)
    assert np.array_equal(read_predictions(tmp_path / "out.npz").probs, expected)
    monkeypatch.setenv("AEPPT_KEY", KEY.hex()[:-1])
    code, printed = run("protect", *ways)
    assert code == 2
    assert "AEPPT_KEY: a key is 64 hexadecimal digits" in printed
    assert KEY.hex()[:16] not in printed
