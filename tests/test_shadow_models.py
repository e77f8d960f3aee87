"""Shadow models: who is trained on what, groups that change nothing, a cache that never lies."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data import Records
from aeppt.models import predict_probs, stacked_training, train_classifier
from aeppt.models.shadows import model_seed, random_halves, train_shadows
from aeppt.models.stacked_training import group_size
from aeppt.models.training import relu_network

ROUNDING = 2e-5  # of probabilities, after a few epochs


def make_records(n: int = 150, d: int = 16, k: int = 3) -> Records:
    """Noise with noisy labels: what a model knows of its own half it has learnt by heart."""
    rng = np.random.default_rng(0)
    return Records(rng.standard_normal((n, d)).astype(np.float32), rng.integers(0, k, n), k)


RECORDS = make_records()


def small_cnn() -> nn.Module:
    """A convolution over the 16 features as a picture of 4 by 4."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


class Sloped(nn.Module):
    """A network whose slope shows in no parameter and no printout."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.layer = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.slope * self.layer(inputs)
        return logits


class Log:
    """Keeps what progress reports, and stops the training when told to."""

    def __init__(self, stop_at: float = np.inf) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.stop_at = stop_at

    def __call__(self, what: str, done: int, total: int) -> None:
        self.calls.append((what, done, total))
        if done >= self.stop_at:
            raise KeyboardInterrupt

    @property
    def trained(self) -> int:
        """Models trained, where each takes three epochs."""
        return self.calls[-1][2] // 3 if self.calls else 0


def run(cache: Path | None = None, log: Log | None = None, **changes: Any) -> NDArray[np.floating]:
    """Predictions of six small models of three epochs, if nothing is changed."""
    arguments = {
        "records": RECORDS,
        "models": 6,
        "architecture": (8,),
        "epochs": 3,
        "random_state": 0,
        **changes,
    }
    return train_shadows(**arguments, cache=cache, on_progress=log).probs


def close(left: NDArray[np.floating], right: NDArray[np.floating]) -> bool:
    return left.shape == right.shape and bool(np.abs(left - right).max() < ROUNDING)


# --- who is trained on what -------------------------------------------------------------------


@given(n=st.integers(2, 40), pairs=st.integers(1, 8), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_record_is_in_half_of_the_models(n: int, pairs: int, seed: int) -> None:
    halves = random_halves(n, 2 * pairs, seed)
    assert (halves.sum(axis=0) == pairs).all()
    assert set(halves.sum(axis=1)) <= {n // 2, n - n // 2}
    fewer = random_halves(n, 2 * pairs - 1, seed)
    assert np.array_equal(fewer, halves[:-1])


def test_halves_are_random() -> None:
    halves = random_halves(400, 200, 0)
    together = np.corrcoef(halves.T)[np.triu_indices(400, 1)]  # of two records, over models
    assert abs(together.mean()) < 0.01
    assert together.std() == pytest.approx(1 / np.sqrt(100), rel=0.1)  # 100 pairs of models
    assert not np.array_equal(halves, random_halves(400, 200, 1))


def test_shadow_models_know_their_halves() -> None:
    shadows = train_shadows(RECORDS, 4, (64,), 150, random_state=0)
    assert np.array_equal(shadows.trained_on, random_halves(len(RECORDS), 4, 0))
    for model in range(len(shadows)):
        own = shadows.of_model(model)
        true = own.probs[np.arange(len(own)), own.labels]
        assert roc_auc_score(own.is_member, true) > 0.8


# --- groups change nothing --------------------------------------------------------------------


def trained_alone(build: Callable[[], nn.Module], records: Records, seed: int) -> nn.Module:
    """Three epochs by the plainest loop."""
    torch.manual_seed(seed)
    model = build()
    order = torch.Generator().manual_seed(seed)
    features, labels = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in torch.randperm(len(labels), generator=order).split(64):
            optimizer.zero_grad()
            cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("group", [1, 2, 5, 6])
@pytest.mark.parametrize("n", [150, 151, 3], ids=["even", "odd", "tiny"])
def test_a_shadow_model_is_what_train_classifier_makes(
    n: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked_training, "LARGEST_GROUP", group)
    records = make_records(n)
    shadows = train_shadows(records, 6, (8, 5), 3, random_state=0)
    for model, half in enumerate(shadows.trained_on):
        part = records.take(np.flatnonzero(half))
        alone = train_classifier(part, (8, 5), 3, model_seed(0, model))
        assert close(shadows.probs[model], predict_probs(alone, records.features))


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    "build",
    [small_cnn, lambda: nn.Linear(16, 3), lambda: nn.Sequential(relu_network((16, 8, 3)))],
    ids=["convolution", "linear", "nested"],
)
def test_any_network_trains_as_if_alone(
    build: Callable[[], nn.Module], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked_training, "LARGEST_GROUP", group)
    shadows = train_shadows(RECORDS, 4, build, 3, random_state=7)
    for model, half in enumerate(shadows.trained_on):
        alone = trained_alone(build, RECORDS.take(np.flatnonzero(half)), model_seed(7, model))
        assert close(shadows.probs[model], predict_probs(alone, RECORDS.features))


def test_the_plain_network_is_the_same_under_vmap() -> None:
    fast = run()
    assert close(run(architecture=lambda: nn.Sequential(relu_network((16, 8, 3)))), fast)


def test_frozen_parameters_stay() -> None:
    def frozen() -> nn.Module:
        network = nn.Linear(16, 3)
        nn.init.zeros_(network.weight).requires_grad_(False)
        return network

    probs = run(architecture=frozen)
    assert np.ptp(probs, axis=1).max() < 1e-6  # only the bias learns, so all records look alike
    assert np.ptp(probs, axis=0).max() > 1e-3


def test_a_function_may_return_one_module_again() -> None:
    network = relu_network((16, 8, 3))
    before = [parameter.clone() for parameter in network.parameters()]
    assert np.array_equal(run(architecture=lambda: network), run(architecture=lambda: network))
    assert all(map(torch.equal, before, network.parameters()))


def test_only_random_state_decides() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(run(), first)
    assert close(run(models=3), first[:3])
    assert not close(run(random_state=1), first)


def test_groups_keep_to_the_memory_budget() -> None:
    network = relu_network((16, 2048, 3))  # so large that its parameters are most of it
    parameters = 4 * (17 * 2048 + 2049 * 3)
    sizes = [group_size(network, RECORDS, budget << 20) for budget in (0, 1, 4, 16, 64, 1024)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == stacked_training.LARGEST_GROUP
    for models in (2, 10):
        assert group_size(network, RECORDS, models * 5 * parameters) < models
    log = Log()
    run(log=log, architecture=(2048,), memory_budget=0)
    assert {what for what, _, _ in log.calls} == {"training 1 shadow models at once"}


def test_progress_counts_epochs_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_training, "LARGEST_GROUP", 4)
    log = Log()
    run(log=log)
    assert [done for _, done, _ in log.calls] == [0, 4, 8, 12, 12, 14, 16, 18]
    assert {total for _, _, total in log.calls} == {18}


# --- the cache --------------------------------------------------------------------------------


def test_the_second_run_trains_nothing(tmp_path: Path) -> None:
    first, log = run(tmp_path / "new" / "folder"), Log()
    assert np.array_equal(run(tmp_path / "new" / "folder", log), first)
    assert log.calls == []
    assert np.array_equal(run(), first)


def test_more_models_train_only_those(tmp_path: Path) -> None:
    first, log = run(tmp_path), Log()
    more = run(tmp_path, log, models=10)
    assert log.trained == 4
    assert np.array_equal(more[:6], first)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_run_cut_short_goes_on(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run()
    monkeypatch.setattr(stacked_training, "LARGEST_GROUP", group)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Log(stop_at=13))  # in the fifth model's first epoch or its group's
    log = Log()
    assert close(run(tmp_path, log), expected)
    assert log.trained == 2
    assert len(list(tmp_path.iterdir())) == 6


def nudged(records: Records) -> Records:
    features = records.features.copy()
    features[-1, -1] = np.nextafter(features[-1, -1], np.float32(np.inf))
    return replace(records, features=features)


def relabelled(records: Records) -> Records:
    labels = records.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    return replace(records, labels=labels)


@pytest.mark.parametrize(
    "change",
    [
        {"records": nudged(RECORDS)},
        {"records": relabelled(RECORDS)},
        {"records": replace(RECORDS, n_classes=4)},
        {"records": RECORDS.take(np.arange(149))},
        {"architecture": (9,)},
        {"architecture": (8, 8)},
        {"architecture": lambda: relu_network((16, 8, 3))},
        {"random_state": 1},
    ],
    ids=["feature", "label", "classes", "records", "width", "depth", "function", "seed"],
)
def test_whatever_else_is_asked_for_is_trained(change: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path)
    log = Log()
    assert close(run(tmp_path, log, **change), run(**change))
    assert log.trained == 6


def test_other_epochs_are_trained(tmp_path: Path) -> None:
    run(tmp_path)
    assert close(run(tmp_path, epochs=4), run(epochs=4))


def test_a_setting_of_a_module_counts(tmp_path: Path) -> None:
    slope = 1.0

    def build() -> nn.Module:
        return Sloped(slope)

    run(tmp_path, architecture=build)
    slope = 2.0
    log = Log()
    assert close(run(tmp_path, log, architecture=build), run(architecture=build))
    assert log.trained == 6


def test_the_training_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setattr("aeppt.models.shadows.LEARNING_RATE", 1e-2)
    log = Log()
    run(tmp_path, log)
    monkeypatch.setattr("torch.__version__", "0")
    run(tmp_path, log)
    assert [done for _, done, _ in log.calls].count(18) == 2


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b"", lambda content: b"\0" * 64])
def test_a_damaged_file_is_trained_anew(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    first = run(tmp_path)
    file = sorted(tmp_path.iterdir())[3]
    content = file.read_bytes()
    file.write_bytes(damage(content))
    log = Log()
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        again = run(tmp_path, log)
    assert log.trained == 1
    assert close(again, first)
    assert np.array_equal(run(tmp_path), again)


def test_a_file_under_another_name_is_not_trusted(tmp_path: Path) -> None:
    first = run(tmp_path)
    files = sorted(tmp_path.iterdir())
    files[1].write_bytes(files[2].read_bytes())
    with pytest.warns(UserWarning, match="is damaged"):
        assert close(run(tmp_path), first)


def test_a_file_holds_one_models_predictions(tmp_path: Path) -> None:
    probs = run(tmp_path)
    for model, file in enumerate(sorted(tmp_path.iterdir())):
        assert np.array_equal(np.load(file), probs[model])
        assert np.array_equal(np.load(file, mmap_mode="r"), probs[model])


def test_with_a_cache_predictions_are_mapped_from_a_file_of_their_own(tmp_path: Path) -> None:
    probs = run(tmp_path)
    owner: Any = probs
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap)
    expected = probs.copy()
    probs[:] = 0
    assert np.array_equal(run(tmp_path), expected)


# --- wrong uses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 3)), r"'0\.running_mean'.*Group"),
        (lambda: nn.Sequential(nn.Dropout(), nn.Linear(16, 3)), "no dropout"),
        (lambda: nn.Linear(15, 3), r"inputs \[64, 16\]"),
        (lambda: nn.Linear(16, 4), r"logits \[b, 3\].*64 records it returned \[64, 4\]"),
        (nn.Identity, "no parameters"),
    ],
    ids=["buffers", "random", "inputs", "classes", "no parameters"],
)
def test_networks_that_cannot_train_at_once_are_refused(
    build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(architecture=build)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": 1}, "models must be at least 2"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"architecture": (8, 0)}, r"widths must be at least 1, got \(8, 0\)"),
        ({"random_state": -1}, "non-negative"),
        ({"records": RECORDS.take(np.arange(1))}, "at least 2 records"),
        ({"records": replace(RECORDS, n_classes=1)}, "at least 2 classes, got 1"),
        ({"records": replace(RECORDS, n_classes=2)}, "labels row .* is 2, .* 0 to 1"),
        ({"records": replace(RECORDS, labels=RECORDS.labels[1:])}, "150 rows .* 149 labels"),
    ],
)
def test_what_is_out_of_range_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**change)


def test_records_of_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="features must be float32, got float64"):
        run(records=replace(RECORDS, features=RECORDS.features.astype(np.float64)))
    with pytest.raises(TypeError, match="labels must be int64, got int32"):
        run(records=replace(RECORDS, labels=RECORDS.labels.astype(np.int32)))


def test_a_record_that_is_not_finite_is_named() -> None:
    features = RECORDS.features.copy()
    features[17, 3] = np.nan
    with pytest.raises(ValueError, match="features row 17 is not finite"):
        run(records=replace(RECORDS, features=features))
