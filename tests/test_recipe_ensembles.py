"""Recipes of several networks and DP-SGD: who sees which records, and what is promised of it."""

from __future__ import annotations

import math
import pickle
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data import Records, Split, load_digits, split_records
from aeppt.models import predict_probs
from aeppt.models.shadows import model_seed
from aeppt.models.training import new_model, relu_network, train
from aeppt.recipes import Plain, Recipe, selena
from aeppt.recipes.distillation import DMP, distill, lowest_entropy
from aeppt.recipes.dp_sgd import DPSGD
from aeppt.recipes.selena import SELENA, deal, train_sub_models
from aeppt.recipes.stacking import ModelStacking, logistic_regression

ROUNDING = 2e-5  # of probabilities, after a few epochs
RECIPES = [SELENA(5, 2), DMP(), ModelStacking(), DPSGD()]


@pytest.fixture(params=RECIPES, ids=lambda recipe: type(recipe).__name__)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    if isinstance(request.param, DPSGD):
        pytest.importorskip("opacus")
    chosen: Recipe = request.param
    return chosen


@pytest.fixture(scope="module")
def digits() -> Split:
    return split_records(load_digits(), 150, 100, random_state=0, reference=120)


def small_network() -> nn.Module:
    return relu_network((64, 64, 10))


def small_cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


class Seeing(nn.Module):
    """Keeps the inputs that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen: set[bytes] = set()
        self.drop = nn.Dropout(0.1)  # so that it is trained alone

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.update(contents(inputs.numpy()))
        logits: Tensor = self.layer(self.drop(inputs))
        return logits


class Built:
    """An architecture that keeps all networks it made."""

    def __init__(self) -> None:
        self.networks: list[Seeing] = []

    def __call__(self) -> nn.Module:
        self.networks.append(Seeing())
        return self.networks[-1]


def contents(features: NDArray[np.float32]) -> set[bytes]:
    return {row.tobytes() for row in features}


def logits_of(model: nn.Module, records: Records) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(records.features)).numpy()
    return logits


def true_probs(model: nn.Module, records: Records) -> NDArray[np.float32]:
    probs = predict_probs(model, records.features)
    return probs[np.arange(len(records)), records.labels]


def leakage(model: nn.Module, split: Split) -> float:
    """How much likelier the model thinks its members' labels than others'."""
    members, others = split.members, split.fresh_non_members
    return float(true_probs(model, members).mean() - true_probs(model, others).mean())


def with_noise(records: Records) -> Records:
    """Three in ten labels replaced, so that members are learnt by heart."""
    rng = np.random.default_rng(0)
    replaced, drawn = rng.random(len(records)) < 0.3, rng.integers(0, 10, len(records))
    return replace(records, labels=np.where(replaced, drawn, records.labels))


def pictures(records: Records) -> Records:
    return replace(records, features=records.features.reshape(-1, 1, 8, 8))


# --- what every recipe promises ---------------------------------------------------------------


def test_the_seed_decides_the_model(recipe: Recipe, digits: Split) -> None:
    def run(seed: int) -> NDArray[np.float32]:
        model = recipe.train(small_network, digits.members, 3, seed, digits.reference)
        return logits_of(model, digits.fresh_non_members)

    first = run(0)
    assert np.array_equal(first, run(0))
    assert not np.array_equal(first, run(1))


def test_training_leaves_global_randomness_alone(recipe: Recipe, digits: Split) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    recipe.train(small_network, digits.members, 2, 0, digits.reference)
    assert torch.equal(torch.rand(9), torch.rand(9, generator=torch.Generator().manual_seed(5)))
    assert np.array_equal(np.random.random(9), np.random.RandomState(5).random(9))  # noqa: NPY002


def test_the_model_is_ready_to_serve(recipe: Recipe, digits: Split) -> None:
    heard: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = recipe.train(
            small_network, digits.members, 3, 0, digits.reference, on_epoch=heard.append
        )
    assert heard == [1, 2, 3]
    assert not any(module.training for module in model.modules())
    assert logits_of(model, digits.members).shape == (150, 10)
    copied = pickle.loads(pickle.dumps(model))
    assert np.array_equal(logits_of(copied, digits.members), logits_of(model, digits.members))


def test_pictures_are_taken(recipe: Recipe, digits: Split) -> None:
    members, reference = pictures(digits.members), pictures(digits.reference)
    model = recipe.train(small_cnn, members, 2, 0, reference)
    assert logits_of(model, members).shape == (150, 10)


def test_the_model_leaks_less_than_a_plain_one(recipe: Recipe, digits: Split) -> None:
    noisy = split_records(with_noise(load_digits()), 150, 100, random_state=0, reference=120)
    plain = Plain().train(small_network, noisy.members, 100, 0)
    model = recipe.train(small_network, noisy.members, 100, 0, noisy.reference)
    assert leakage(model, noisy) < 0.6 * leakage(plain, noisy)
    said = predict_probs(model, digits.fresh_non_members.features).argmax(axis=1)
    assert np.mean(said == digits.fresh_non_members.labels) > 0.3


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (SELENA, {"models": 1}, "models must be at least 2, got 1"),
        (SELENA, {"left_out": 0}, "left_out must be at least 1 and below models, 25, got 0"),
        (SELENA, {"models": 5, "left_out": 5}, "left_out must be .* 5, got 5"),
        (DMP, {"temperature": 0.0}, "temperature must be above 0 and finite, got 0"),
        (DMP, {"temperature": math.nan}, "temperature must be above 0 and finite, got nan"),
        (DMP, {"kept": 0.0}, "kept must be above 0 and at most 1, got 0"),
        (DMP, {"kept": 1.1}, "kept must be above 0 and at most 1, got 1.1"),
        (DPSGD, {"noise_multiplier": -1.0}, "noise_multiplier must be at least 0 and finite"),
        (DPSGD, {"noise_multiplier": math.inf}, "noise_multiplier must .* finite, got inf"),
        (DPSGD, {"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
        (DPSGD, {"learning_rate": -0.1}, "learning_rate must be above 0"),
    ],
)
def test_a_parameter_out_of_range_is_named(
    kind: type[Recipe], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**parameters)


# --- SELENA -----------------------------------------------------------------------------------


@given(n=st.integers(1, 60), models=st.integers(2, 12), data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_each_record_is_left_out_of_exactly_so_many(
    n: int, models: int, data: st.DataObject, seed: int
) -> None:
    left_out = data.draw(st.integers(1, models - 1))
    dealt = deal(n, models, left_out, seed)
    assert dealt.shape == (models, n)
    assert (dealt.sum(axis=0) == left_out).all()
    assert np.ptp(dealt.sum(axis=1)) <= 1
    assert np.array_equal(dealt, deal(n, models, left_out, seed))


def test_the_deal_is_random() -> None:
    dealt = deal(2000, 25, 10, 0)
    assert len(np.unique(dealt, axis=1).T) > 1990
    together = (dealt[:, None] & dealt).mean(axis=2)[np.triu_indices(25, 1)]
    assert together.mean() == pytest.approx(10 / 25 * 9 / 24)
    assert together.std() < 0.02


def test_a_soft_label_is_the_average_of_those_who_did_not_see_the_record(
    digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, members = SELENA(5, 2), digits.members
    seen: dict[str, Any] = {}

    def spy(student: nn.Module, features: Any, soft_labels: Tensor, *rest: Any, **more: Any) -> Any:
        seen["features"], seen["soft_labels"] = features, soft_labels
        return distill(student, features, soft_labels, *rest, **more)

    monkeypatch.setattr(selena, "distill", spy)
    recipe.train(small_network, members, 4, 7)
    left_out = deal(150, 5, 2, 7)
    probs = np.stack(
        [
            predict_probs(
                train(
                    new_model(small_network, model_seed(7, i)),
                    members.take(np.flatnonzero(~left_out[i])),
                    4,
                    model_seed(7, i),
                ),
                members.features,
            )
            for i in range(5)
        ]
    )
    assert seen["features"] is members.features
    for record in range(150):
        of_record = probs[left_out[:, record], record].mean(axis=0)
        assert np.abs(seen["soft_labels"][record].numpy() - of_record).max() < ROUNDING


def test_the_released_model_never_meets_a_label(
    digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same sub-models, other labels make the same model."""
    sub_models = [new_model(small_network, seed) for seed in range(5)]
    monkeypatch.setattr(selena, "train_sub_models", lambda *arguments: sub_models)
    members = digits.members
    others = replace(members, labels=(members.labels + 1) % 10)
    first, second = (SELENA(5, 2).train(small_network, part, 3, 0) for part in (members, others))
    assert np.array_equal(logits_of(first, members), logits_of(second, members))


def test_networks_that_cannot_be_trained_at_once_are_trained_one_by_one(digits: Split) -> None:
    def architecture() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    trained_on = ~deal(150, 3, 1, 0)
    models = train_sub_models(architecture, digits.members, trained_on, 2, [0, 1, 2])
    for seed, model in enumerate(models):
        own = digits.members.take(np.flatnonzero(trained_on[seed]))
        alone = train(new_model(architecture, seed), own, 2, seed)
        assert np.array_equal(logits_of(model, own), logits_of(alone, own))


def test_sub_models_do_not_depend_on_memory(digits: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on = ~deal(149, 4, 1, 0)
    run = (small_network, digits.members.take(np.arange(149)), trained_on, 3, [0, 1, 2, 3])
    at_once = train_sub_models(*run)
    monkeypatch.setattr(selena, "MEMORY_BUDGET", 1)
    for left, right in zip(at_once, train_sub_models(*run), strict=True):
        difference = logits_of(left, digits.members) - logits_of(right, digits.members)
        assert np.abs(difference).max() < 10 * ROUNDING


def test_fewer_records_than_sub_models_are_refused(digits: Split) -> None:
    with pytest.raises(ValueError, match="25 sub-models needs at least as many records, got 24"):
        SELENA().train(small_network, digits.members.take(np.arange(24)), 1, 0)
    SELENA().train(small_network, digits.members.take(np.arange(25)), 1, 0)


# --- DMP --------------------------------------------------------------------------------------


def test_the_student_sees_the_reference_alone(digits: Split) -> None:
    built = Built()
    student = DMP().train(built, digits.members, 2, 0, digits.reference)
    teacher, released = built.networks
    assert student is released
    assert teacher.seen == contents(digits.members.features)
    assert released.seen == contents(digits.reference.features)


def test_the_student_sees_the_kept_share(digits: Split) -> None:
    built = Built()
    DMP(kept=0.25).train(built, digits.members, 2, 0, digits.reference)
    logits = torch.from_numpy(logits_of(built.networks[0], digits.reference))
    surest = torch.special.entr(logits.softmax(dim=1)).sum(dim=1).argsort()[:30]
    assert built.networks[1].seen == contents(digits.reference.features[surest.numpy()])


def test_labels_of_the_reference_do_not_matter(digits: Split) -> None:
    unlabelled = replace(digits.reference, labels=np.zeros(120, np.int64))
    first, second = (
        DMP().train(small_network, digits.members, 2, 0, part)
        for part in (digits.reference, unlabelled)
    )
    assert np.array_equal(logits_of(first, digits.members), logits_of(second, digits.members))


def test_lowest_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    assert lowest_entropy(logits, 0.5).tolist() == [1, 3]
    assert lowest_entropy(logits, 1.0).tolist() == [1, 3, 2, 0]
    assert lowest_entropy(logits, 0.01).tolist() == [1]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_a_student_that_can_learns_the_teachers_logits(temperature: float) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    student = nn.Linear(1, 3, bias=False)
    nn.init.zeros_(student.weight)
    features = np.ones((1, 1), np.float32)
    soft_labels = (logits / temperature).softmax(dim=1)
    distill(student, features, soft_labels, 3000, 0, temperature)
    learnt = student.weight.flatten() - student.weight.mean()  # logits have no zero of their own
    assert learnt.tolist() == pytest.approx([1.0, 0.0, -1.0], abs=0.05)


@pytest.mark.parametrize("rows", [None, 0])
def test_dmp_needs_reference_records(rows: int | None, digits: Split) -> None:
    reference = None if rows is None else digits.reference.take(np.arange(rows))
    with pytest.raises(ValueError, match="DMP needs reference, got none"):
        DMP().train(small_network, digits.members, 1, 0, reference)


# --- stacking ---------------------------------------------------------------------------------


def test_no_part_learns_anothers_records(digits: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    combined: list[Tensor] = []

    def spy(inputs: Tensor, labels: Tensor, n_classes: int) -> nn.Linear:
        combined.extend([inputs, labels])
        return logistic_regression(inputs, labels, n_classes)

    monkeypatch.setattr("aeppt.recipes.stacking.logistic_regression", spy)
    built, members = Built(), digits.members
    ModelStacking().train(built, members, 2, 0)
    first, second = (network.seen for network in built.networks)
    assert len(first) == len(second) == 50
    assert not first & second
    rest = [i for i, row in enumerate(members.features) if row.tobytes() not in first | second]
    assert len(rest) == 50
    both = [predict_probs(network, members.features[rest]) for network in built.networks]
    probs, labels = combined
    order, own_order = np.lexsort(probs.numpy().T), np.lexsort(np.hstack(both).T)
    assert np.abs(probs.numpy()[order] - np.hstack(both)[own_order]).max() < ROUNDING
    assert np.array_equal(labels.numpy()[order], members.labels[rest][own_order])


def test_the_combiner_is_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.dirichlet(np.ones(4), 80).astype(np.float32)
    labels = rng.integers(0, 4, 80)
    layer = logistic_regression(torch.from_numpy(inputs), torch.from_numpy(labels), 4)
    other = LogisticRegression(tol=1e-8, max_iter=1000).fit(inputs, labels)
    probs = predict_probs(layer, inputs)
    assert np.abs(probs - other.predict_proba(inputs)).max() < 1e-4
    assert layer.weight.dtype == torch.float32


def test_a_class_that_the_combiner_never_saw_is_unlikely() -> None:
    inputs, labels = torch.rand(30, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30)
    layer = logistic_regression(inputs, labels % 3, 4)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert (layer(inputs).softmax(dim=1)[:, 3] < 0.01).all()


def test_two_records_cannot_be_stacked(digits: Split) -> None:
    with pytest.raises(ValueError, match=r"at least 3 records, .* got 2"):
        ModelStacking().train(small_network, digits.members.take(np.arange(2)), 1, 0)
    model = ModelStacking().train(small_network, digits.members.take(np.arange(3)), 1, 0)
    assert np.isfinite(logits_of(model, digits.members)).all()


# --- DP-SGD -----------------------------------------------------------------------------------


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The privacy engines that a training makes."""
    opacus: Any = pytest.importorskip("opacus")
    made: list[Any] = []

    class Kept(opacus.PrivacyEngine):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(opacus, "PrivacyEngine", Kept)
    yield made


def moved(recipe: DPSGD, records: Records) -> tuple[Tensor, Tensor]:
    """The network's parameters before and after one epoch, each as one vector."""
    before = new_model(small_network, 0)
    after = recipe.train(small_network, records, 1, 0)
    return tuple(  # type: ignore[return-value]
        torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        for model in (before, after)
    )


def test_epsilon_by_hand() -> None:
    """One step on all records is the Gaussian mechanism: of order a, its divergence is a / 2σ²."""
    pytest.importorskip("opacus")
    order = np.linspace(1.001, 60, 200_000)
    # Balle et al. 2020 (AISTATS), theorem 21: from Rényi divergence to ε.
    bounds = order / (2 * 3.0**2) + np.log1p(-1 / order) - np.log(1e-5 * order) / (order - 1)
    epsilon = DPSGD(noise_multiplier=3.0).epsilon(n_records=64, epochs=1, delta=1e-5)
    assert epsilon == pytest.approx(bounds.min(), rel=1e-3)


def test_epsilon_rises_with_epochs_and_falls_with_noise_records_and_delta() -> None:
    pytest.importorskip("opacus")

    def epsilon(noise: float = 1.0, n: int = 1000, epochs: int = 10, delta: float = 1e-4) -> float:
        return DPSGD(noise_multiplier=noise).epsilon(n, epochs, delta)

    noises = [0.05, 0.1, 0.3, 1.0, 3.0, 100.0]
    spent = [epsilon(noise) for noise in noises]
    assert all(left > right > 0 for left, right in pairwise(spent))
    assert epsilon(epochs=20) > epsilon() > epsilon(n=2000)
    assert epsilon() > epsilon(delta=1e-3)
    assert epsilon(noise=0.0) == math.inf


def test_epsilon_is_that_of_the_training(engines: list[Any], digits: Split) -> None:
    recipe = DPSGD(noise_multiplier=1.5)
    recipe.train(small_network, digits.members, 4, 0)
    (engine,) = engines
    assert engine.accountant.history == [(1.5, 1 / 3, 12)]
    tight = engine.get_epsilon(1e-3)  # by numerical accounting
    assert tight < recipe.epsilon(150, 4, 1e-3) < 1.25 * tight


@pytest.mark.parametrize("epsilon", [0.5, 8.0, 1000.0])
def test_noise_for_an_epsilon(epsilon: float) -> None:
    pytest.importorskip("opacus")
    recipe = DPSGD(max_gradient_norm=2.0).with_epsilon(epsilon, 1000, 20, 1e-4)
    assert recipe.max_gradient_norm == 2.0
    assert epsilon - 0.011 < recipe.epsilon(1000, 20, 1e-4) <= epsilon


def test_a_record_moves_the_model_by_the_clipped_norm(digits: Split) -> None:
    pytest.importorskip("opacus")
    recipe = DPSGD(noise_multiplier=0.0, max_gradient_norm=1e-2, learning_rate=1.0)
    one, many = digits.members.take(np.arange(1)), digits.members.take(np.arange(64))
    before, after = moved(recipe, one)
    assert (after - before).norm().item() == pytest.approx(1e-2, rel=1e-3)
    before, after = moved(recipe, many)
    assert (after - before).norm().item() < 1e-2


def test_without_noise_or_clipping_it_is_gradient_descent(digits: Split) -> None:
    pytest.importorskip("opacus")
    records = digits.members.take(np.arange(64))  # one batch, of all
    _, after = moved(DPSGD(0.0, 1e6, learning_rate=0.5), records)
    model = new_model(small_network, 0)
    loss = cross_entropy(
        model(torch.from_numpy(records.features)), torch.from_numpy(records.labels)
    )
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = [p - 0.5 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    assert torch.allclose(after, torch.cat([p.flatten() for p in expected]), atol=1e-6)


def test_the_noise_is_as_large_as_it_is_accounted_for(digits: Split) -> None:
    pytest.importorskip("opacus")
    recipe = DPSGD(noise_multiplier=3.0, max_gradient_norm=0.1, learning_rate=1.0)
    before, after = moved(recipe, digits.members.take(np.arange(50)))
    noise = 50 * (after - before)  # beside at most 5 of the records' own, over all parameters
    assert noise.std().item() == pytest.approx(0.3, rel=0.1)


def test_nothing_but_parameters_is_released(digits: Split) -> None:
    pytest.importorskip("opacus")
    model = DPSGD().train(small_network, digits.members, 1, 0)
    assert type(model) is nn.Sequential
    for parameter in model.parameters():
        assert vars(parameter) == {}
        assert parameter.grad is None
    assert not any(module._backward_hooks or module._forward_hooks for module in model.modules())


def test_batches_without_any_record_are_survived(
    digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opacus")
    monkeypatch.setattr("aeppt.recipes.dp_sgd.BATCH", 1)
    model = DPSGD().train(small_network, digits.members.take(np.arange(12)), 3, 0)
    assert np.isfinite(logits_of(model, digits.members)).all()


def test_batch_norm_is_refused(digits: Split) -> None:
    pytest.importorskip("opacus")

    def architecture() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))

    with pytest.raises(ValueError, match="BatchNorm"):
        DPSGD().train(architecture, digits.members, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 0.1), "n_records must be at least 1, got 0"),
        ((10, 0, 0.1), "epochs must be at least 1, got 0"),
        ((10, 1, 0.0), "delta must be between 0 and 1, exclusive, got 0"),
        ((10, 1, 1.0), "delta must be between 0 and 1, exclusive, got 1"),
    ],
)
def test_what_epsilon_cannot_be_asked(arguments: tuple[int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPSGD().epsilon(*arguments)
    with pytest.raises(ValueError, match=message):
        DPSGD().with_epsilon(1.0, *arguments)


@pytest.mark.parametrize("epsilon", [0.0, math.inf, math.nan])
def test_an_epsilon_out_of_range_is_named(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be above 0 and finite"):
        DPSGD().with_epsilon(epsilon, 100, 1, 0.1)


def test_a_missing_opacus_is_named(digits: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ImportError, match="pip install opacus"):
        DPSGD().train(small_network, digits.members, 1, 0)
    with pytest.raises(ImportError, match="pip install opacus"):
        DPSGD().epsilon(100, 1, 0.1)
