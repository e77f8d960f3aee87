"""The method on real data: attacks fall to chance, accuracy does not move, and seeds repeat.

Location is read from ../shared/data/location30.npz beside the repository, or from the file that
the environment variable AEPPT_LOCATION names; its tests skip where there is none.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from aeppt import AEPPT
from aeppt.data import Records, load_digits, load_location, split_records
from aeppt.defenses import OutputDefense
from aeppt.evaluation import AuditReport, Estimate
from aeppt.evaluation.demonstration import SETUPS, demonstrate, predictions_on
from aeppt.models import train_classifier

ROOT = Path(__file__).resolve().parents[1]
LOCATION = Path(
    os.environ.get("AEPPT_LOCATION", ROOT.parent / "shared" / "data" / "location30.npz")
)


def metric(report: AuditReport, attack: str, setting: str, name: str) -> Estimate:
    (outcome,) = (o for o in report.outcomes if (o.attack, o.setting) == (attack, setting))
    return outcome.metrics[name]


@pytest.fixture(scope="module", params=["digits", "location"])
def demonstration(request: pytest.FixtureRequest) -> tuple[str, AuditReport, OutputDefense]:
    """The whole run of one data set, with seed 0."""
    name: str = request.param
    return name, *run_once(name)


@cache
def run_once(name: str) -> tuple[AuditReport, OutputDefense]:
    return demonstrate(name, records_of(name), random_state=0)


def records_of(name: str) -> Records:
    if name == "digits":
        return load_digits()
    return load_location(location_file())


def location_file() -> Path:
    if not LOCATION.is_file():
        pytest.skip(f"the Location data set is not at {LOCATION}; AEPPT_LOCATION can name it")
    return LOCATION


# --- the whole method -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_network_falls_to_chance(demonstration: tuple[str, AuditReport, OutputDefense]) -> None:
    _, report, _ = demonstration
    before = metric(report, "neural network", "undefended", "balanced_accuracy")
    after = metric(report, "neural network", "adaptive", "balanced_accuracy")
    assert before.low > 0.5, "nothing leaked in the first place"
    assert after.value == pytest.approx(0.5, abs=0.06)


@pytest.mark.slow
def test_accuracy_does_not_move(demonstration: tuple[str, AuditReport, OutputDefense]) -> None:
    name, report, defense = demonstration
    assert report.utility.accuracy == report.utility.accuracy_protected
    assert np.array_equal(report.protected.probs.argmax(1), report.target.probs.argmax(1))
    assert np.array_equal(report.protected.probs, defense.protect(report.target.probs))
    members = SETUPS[name].members
    assert report.facts["target records"] == f"{members} members, {members} non-members"
    assert report.title == f"PrivacyFunnel on {name}"


@pytest.mark.slow
def test_the_adaptive_attacker_ends_at_the_floor(
    demonstration: tuple[str, AuditReport, OutputDefense],
) -> None:
    _, report, _ = demonstration
    for outcome in report.outcomes:
        if outcome.setting == "adaptive":
            accuracy = outcome.metrics["balanced_accuracy"]
            assert accuracy.value <= report.floor.value + 0.04, "more than chance"
            assert accuracy.low <= report.floor.value, outcome.attack


@pytest.mark.slow
def test_the_certificate_is_about_records_that_fitted_nothing(
    demonstration: tuple[str, AuditReport, OutputDefense],
) -> None:
    name, report, _ = demonstration
    certificate = report.certificate
    assert certificate is not None
    members = SETUPS[name].members
    assert (certificate.members, certificate.non_members) == (members // 2, members)
    assert certificate.granted == (name == "location"), "digits are too few records"
    assert certificate.measured_advantage < 0.06


@pytest.mark.slow
def test_the_papers_method_can_be_shown_too() -> None:
    given = AEPPT(hidden=(16,), random_state=7)
    report, defense = demonstrate("digits", load_digits(), random_state=0, defense=given)
    assert report.title == "AEPPT on digits"
    assert defense.get_params() == {**given.get_params(), "random_state": 0}
    assert not hasattr(given, "module_"), "what was given was fitted"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report() -> None:
    calls: list[tuple[str, int, int]] = []
    first, _ = run_once("digits")
    again, _ = demonstrate("digits", load_digits(), 0, lambda *call: calls.append(call))
    assert first.to_dict() == again.to_dict()
    assert np.array_equal(first.protected.probs, again.protected.probs)
    kinds = [what for what, _, _ in calls]
    assert kinds.count("training the target model") == SETUPS["digits"].epochs
    assert kinds.count("training the shadow model") == SETUPS["digits"].epochs
    assert calls[-1][0] == "done"


def test_predictions_know_who_trained() -> None:
    records = load_digits()
    split = split_records(records, 40, 40, 0)
    model = train_classifier(split.members, (128,), 150, 0)
    made = predictions_on(model, split.members, split.fresh_non_members)
    assert made.is_member.tolist() == [True] * 40 + [False] * 40
    assert np.array_equal(made.labels[:40], split.members.labels)
    assert np.array_equal(made.labels[40:], split.fresh_non_members.labels)
    assert made.is_correct[:40].mean() > 0.95
    assert made.is_correct[40:].mean() < made.is_correct[:40].mean()


# --- the data ---------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    records = load_digits()
    assert len(records) == 1797
    assert records.features.shape == (1797, 64)
    assert records.features.dtype == np.float32
    assert (records.features.min(), records.features.max()) == (0, 1)
    assert records.n_classes == 10
    assert set(records.labels.tolist()) == set(range(10))


def test_location_is_read_bit_by_bit() -> None:
    path = location_file()
    records = load_location(str(path))
    assert records.features.shape == (5010, 446)
    assert records.features.dtype == np.float32
    assert set(np.unique(records.features)) == {0.0, 1.0}
    assert records.n_classes == 30
    assert set(records.labels.tolist()) == set(range(30))
    with np.load(path) as arrays:
        first = [int(bit) for byte in arrays["features"][0] for bit in f"{byte:08b}"][:446]
    assert records.features[0].tolist() == first


def test_a_changed_location_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "location30.npz"
    shutil.copy(location_file(), copy)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ValueError, match=f"{copy} is not the Location data set.*SHA-256"):
        load_location(copy)


def test_another_file_is_not_location(tmp_path: Path) -> None:
    path = tmp_path / "location30.npz"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        load_location(path)


def test_a_missing_location_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none.npz")):
        load_location(tmp_path / "none.npz")


def test_a_download_is_checked_kept_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "kept.npz"
    cache.write_bytes(b"damaged while it was kept")
    with pytest.raises(ValueError, match=f"{cache} is not"):
        load_location("https://example.org/location30.npz", cache)
    shutil.copy(location_file(), cache)
    records = load_location("https://example.org/location30.npz", cache)
    assert len(records) == 5010

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "aeppt").mkdir()
    shutil.copy(cache, tmp_path / "aeppt" / "location30.npz")
    assert len(load_location("https://example.org/location30.npz")) == 5010


# --- the split --------------------------------------------------------------------------------


def numbered(n: int) -> Records:
    """Records whose only feature is their number."""
    return Records(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 3, n_classes=3)


def test_no_record_has_two_roles() -> None:
    split = split_records(numbered(100), members=20, shadow_members=15, random_state=0)
    parts = [
        split.members,
        split.known_non_members,
        split.fresh_non_members,
        split.shadow_members,
        split.shadow_non_members,
    ]
    assert [len(part) for part in parts] == [20, 20, 20, 15, 15]
    numbers = np.concatenate([part.features[:, 0] for part in parts]).astype(int)
    assert len(set(numbers.tolist())) == 90
    assert not np.array_equal(numbers, np.sort(numbers)), "the records were not shuffled"
    for part in parts:
        assert part.n_classes == 3
        assert np.array_equal(part.labels, part.features[:, 0].astype(int) % 3)


def test_a_split_follows_its_seed() -> None:
    first, again, other = (split_records(numbered(50), 10, 10, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.members.features, again.members.features)
    assert np.array_equal(first.shadow_members.features, again.shadow_members.features)
    assert not np.array_equal(first.members.features, other.members.features)


def test_a_split_may_use_every_record_but_no_more() -> None:
    assert len(split_records(numbered(50), 10, 10, 0).members) == 10
    with pytest.raises(ValueError, match="needs 50 records, there are 49"):
        split_records(numbered(49), 10, 10, 0)
