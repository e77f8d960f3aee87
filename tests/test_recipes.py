"""Recipes: what all of them promise, and what each does to the model that it trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import aeppt.recipes
from aeppt import AEPPT, ProtectedModel
from aeppt.data import Records, load_digits
from aeppt.models import predict_probs, train_classifier
from aeppt.models.training import BATCH, mean_cross_entropy, new_model, relu_network, train
from aeppt.recipes import (
    AdversarialRegularization,
    ConfidencePenalty,
    Dropout,
    EarlyStopping,
    HAMPTraining,
    LabelSmoothing,
    MixupMMD,
    Plain,
    Recipe,
    RelaxLoss,
    WeightDecay,
)
from aeppt.recipes.adversarial_regularization import InferenceNetwork
from aeppt.recipes.base import LossRecipe
from aeppt.recipes.confidence import mean_entropy
from aeppt.recipes.hamp import soft_labels
from aeppt.recipes.mixup_mmd import mixup_loss, squared_mmd
from aeppt.recipes.relax_loss import flattening_loss

RECIPES: list[type[Recipe]] = [
    getattr(aeppt.recipes, name) for name in aeppt.recipes.__all__ if name != "Recipe"
]
NEED_REFERENCE = [recipe for recipe in RECIPES if recipe.needs_reference]

every_recipe = pytest.mark.parametrize("recipe", [make() for make in RECIPES], ids=str)


@pytest.fixture(autouse=True)
def _opacus(request: pytest.FixtureRequest) -> None:
    if "DPSGD" in request.node.name:
        pytest.importorskip("opacus", reason="Opacus is not installed")


@lru_cache
def digits(part: int, size: int = 150) -> Records:
    """One of several sets of digits that share none."""
    order = np.random.default_rng(0).permutation(1797)
    return load_digits().take(order[part * size : (part + 1) * size])


def images(records: Records) -> Records:
    return dataclasses.replace(records, features=records.features.reshape(-1, 1, 8, 8))


def noise(seed: int, n: int = 100) -> Records:
    """Features that say nothing of the labels: a network can only learn them by heart."""
    rng = np.random.default_rng(seed)
    return Records(rng.standard_normal((n, 16)).astype(np.float32), rng.integers(0, 3, n), 3)


def with_wrong_labels(records: Records, seed: int) -> Records:
    """Three in ten labels are drawn anew, so that there is much to learn by heart."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 10, len(records))
    return dataclasses.replace(
        records, labels=np.where(rng.random(len(records)) < 0.3, drawn, records.labels)
    )


def small_network() -> nn.Module:
    return relu_network((64, 32, 10))


def wide_network() -> nn.Module:
    return relu_network((64, 256, 10))


def noise_network() -> nn.Module:
    return relu_network((16, 64, 3))


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def trained(recipe: Recipe, epochs: int = 3, random_state: int = 0, **changes: Any) -> nn.Module:
    """A small network trained on digits, if nothing is changed."""
    arguments = {
        "architecture": small_network,
        "records": digits(0),
        "reference": digits(1),
        **changes,
    }
    return recipe.train(epochs=epochs, random_state=random_state, **arguments)


@lru_cache
def overfitted(recipe: Recipe) -> nn.Module:
    """A wide network after many epochs on few records."""
    return trained(recipe, 80, architecture=wide_network)


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def logits_on(model: nn.Module, records: Records) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.from_numpy(records.features))
    return logits


def confidence(model: nn.Module, records: Records) -> float:
    """The mean probability of the true class."""
    probs = predict_probs(model, records.features)
    return float(probs[np.arange(len(records)), records.labels].mean())


def fixed_logits(logits: Tensor) -> nn.Module:
    """A model whose logits are its only parameters."""
    model = nn.Linear(1, logits.shape[1] * len(logits), bias=False)
    model.weight = nn.Parameter(logits.reshape(-1, 1).clone())
    model.register_forward_hook(lambda *_: model.weight.reshape(logits.shape))
    return model


# --- what all promise -------------------------------------------------------------------------


def test_recipes_are_listed_once_and_frozen() -> None:
    assert len(RECIPES) == len(set(RECIPES)) >= 9
    for make in RECIPES:
        assert issubclass(make, Recipe)
        assert make() == make()
        assert make.__dataclass_params__.frozen, make  # type: ignore[attr-defined]


@every_recipe
def test_trained_models_are_in_eval_mode_and_give_logits(recipe: Recipe) -> None:
    model = trained(recipe)
    assert not any(module.training for module in model.modules())
    logits = logits_on(model, digits(2))
    assert logits.shape == (150, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert torch.equal(logits_on(model, digits(2)), logits)


@every_recipe
def test_images_are_records_too(recipe: Recipe) -> None:
    model = trained(
        recipe,
        epochs=1,
        architecture=small_cnn,
        records=images(digits(0)),
        reference=images(digits(1)),
    )
    assert logits_on(model, images(digits(2))).shape == (150, 10)


@every_recipe
def test_the_seed_decides(recipe: Recipe) -> None:
    first = parameters(trained(recipe))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - nor may the legacy generator matter
    assert torch.equal(parameters(trained(recipe)), first)
    assert not torch.equal(parameters(trained(recipe, random_state=1)), first)


@every_recipe
def test_global_randomness_is_left_alone(recipe: Recipe) -> None:
    def next_numbers() -> tuple[float, float]:
        return torch.rand(()).item(), np.random.random()  # noqa: NPY002

    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = next_numbers()
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    trained(recipe)
    assert next_numbers() == expected


@every_recipe
def test_records_and_reference_are_left_alone(recipe: Recipe) -> None:
    records, reference = (digits(part).take(np.arange(150)) for part in (0, 1))
    trained(recipe, records=records, reference=reference)
    for used, original in ((records, digits(0)), (reference, digits(1))):
        assert np.array_equal(used.features, original.features)
        assert np.array_equal(used.labels, original.labels)


@every_recipe
def test_progress_counts_epochs(recipe: Recipe) -> None:
    heard: list[int] = []
    trained(recipe, on_epoch=heard.append)
    assert heard == [1, 2, 3]


@every_recipe
def test_models_learn(recipe: Recipe) -> None:
    right = logits_on(overfitted(recipe), digits(2)).argmax(dim=1).numpy() == digits(2).labels
    assert right.mean() > 0.6


@every_recipe
def test_a_defense_of_the_output_can_stand_behind(recipe: Recipe) -> None:
    model = trained(recipe, epochs=10)
    members, others = (predict_probs(model, digits(part).features) for part in (0, 2))
    defense = AEPPT(hidden=(4,)).fit(np.concatenate([members, others]), [1] * 150 + [0] * 150)
    served = ProtectedModel(model, defense)
    protected = served.predict_proba(torch.from_numpy(digits(2).features)).numpy()
    assert (protected.argmax(axis=1) == others.argmax(axis=1)).all()
    assert not np.allclose(protected, others, atol=1e-4)


@pytest.mark.parametrize("make", NEED_REFERENCE)
@pytest.mark.parametrize("reference", [None, digits(1).take(np.arange(0))], ids=["none", "empty"])
def test_a_missing_reference_is_asked_for(make: type[Recipe], reference: Records | None) -> None:
    with pytest.raises(ValueError, match=rf"{make.__name__} needs reference, got none; give"):
        trained(make(), reference=reference)


@pytest.mark.parametrize("make", [make for make in RECIPES if not make.needs_reference])
def test_others_need_no_reference(make: type[Recipe]) -> None:
    model = trained(make(), epochs=1, reference=None)
    assert torch.equal(parameters(model), parameters(trained(make(), epochs=1)))


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (AdversarialRegularization, "weight", [-1.0, math.nan, math.inf]),
        (AdversarialRegularization, "inference_steps", [0, 1.5]),
        (ConfidencePenalty, "weight", [-0.1, math.nan, math.inf]),
        (Dropout, "rate", [-0.1, 1.0, math.nan]),
        (EarlyStopping, "patience", [0, 1.5]),
        (HAMPTraining, "entropy_threshold", [0.0, 1.0, math.nan]),
        (HAMPTraining, "entropy_weight", [-0.1, math.nan, math.inf]),
        (LabelSmoothing, "smoothing", [-0.1, 1.1, math.nan]),
        (MixupMMD, "mixup_alpha", [0.0, -1.0, math.nan, math.inf]),
        (MixupMMD, "mmd_weight", [-1.0, math.nan, math.inf]),
        (RelaxLoss, "target_loss", [0.0, -1.0, math.nan, math.inf]),
        (WeightDecay, "strength", [-0.1, math.nan, math.inf]),
    ],
)
def test_parameters_out_of_range_are_named(
    make: Callable[..., Recipe], name: str, values: list[float]
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value}$"):
            make(**{name: value})


# --- next to training without a defense -------------------------------------------------------


def test_plain_is_train_classifier() -> None:
    expected = train_classifier(digits(0), (32,), 3, 0)
    assert torch.equal(parameters(trained(Plain())), parameters(expected))


@pytest.mark.parametrize(
    "recipe",
    [
        AdversarialRegularization(weight=0.0),
        ConfidencePenalty(weight=0.0),
        Dropout(rate=0.0),
        EarlyStopping(),  # the loss still falls
        LabelSmoothing(smoothing=0.0),
        RelaxLoss(target_loss=1e-6),
        WeightDecay(strength=0.0),
    ],
    ids=str,
)
def test_a_recipe_that_asks_for_nothing_is_plain(recipe: Recipe) -> None:
    assert torch.equal(parameters(trained(recipe)), parameters(trained(Plain())))


@pytest.mark.parametrize(
    "recipe", [make() for make in RECIPES if make not in (Plain, EarlyStopping)], ids=str
)
def test_a_recipe_with_its_defaults_is_not_plain(recipe: Recipe) -> None:
    plain, other = (logits_on(overfitted(which), digits(2)) for which in (Plain(), recipe))
    assert not torch.allclose(other, plain, atol=0.1)


@pytest.mark.parametrize(
    "recipe",
    [LabelSmoothing(), ConfidencePenalty(weight=0.5), HAMPTraining(), RelaxLoss(), WeightDecay()],
    ids=str,
)
def test_predictions_on_members_are_less_certain(recipe: Recipe) -> None:
    plain, other = (
        mean_entropy(logits_on(overfitted(which), digits(0))) for which in (Plain(), recipe)
    )
    assert other > plain + 0.2


@pytest.mark.parametrize(
    "recipe", [AdversarialRegularization(weight=3.0), MixupMMD(), WeightDecay(0.03)], ids=str
)
def test_members_stand_out_less(recipe: Recipe) -> None:
    members, reference, others = (with_wrong_labels(digits(part), part) for part in range(3))
    gaps = []
    for which in (Plain(), recipe):
        model = trained(which, 80, architecture=wide_network, records=members, reference=reference)
        gaps.append(confidence(model, members) - confidence(model, others))
    assert gaps[0] > 0.2
    assert gaps[1] < 0.75 * gaps[0]


# --- weight decay and dropout -----------------------------------------------------------------


def test_weight_decay_makes_small_weights() -> None:
    norms = [
        parameters(overfitted(recipe)).norm()
        for recipe in (Plain(), WeightDecay(0.001), WeightDecay(0.01))
    ]
    assert norms[0] > norms[1] > norms[2]


@pytest.mark.parametrize("architecture", [small_network, small_cnn])
def test_dropout_follows_every_relu(architecture: Callable[[], nn.Module]) -> None:
    is_cnn = architecture is small_cnn
    records = images(digits(0)) if is_cnn else digits(0)
    model = trained(Dropout(0.3), epochs=1, architecture=architecture, records=records)
    kinds = [type(layer) for layer in model.modules()]
    places = [place for place, kind in enumerate(kinds) if kind is nn.ReLU]
    assert len(places) == (2 if is_cnn else 1)
    assert all(kinds[place + 1] is nn.Dropout for place in places)
    assert all(layer.p == 0.3 for layer in model.modules() if isinstance(layer, nn.Dropout))

    as_built = architecture()
    as_built.load_state_dict(
        dict(zip(as_built.state_dict(), model.state_dict().values(), strict=True))
    )
    assert torch.equal(logits_on(model, records), logits_on(as_built.eval(), records))
    model.train()
    assert not torch.equal(logits_on(model, records), logits_on(model, records))


def test_dropout_follows_a_relu_wherever_it_is_used() -> None:
    def architecture() -> nn.Module:
        relu = nn.ReLU()
        block = nn.Sequential(nn.Linear(16, 16), relu)
        return nn.Sequential(nn.Linear(64, 16), relu, block, block, nn.Linear(16, 10))

    model = trained(Dropout(), epochs=1, architecture=architecture)
    heard: list[str] = []
    for layer in model.modules():
        if isinstance(layer, nn.ReLU | nn.Dropout):
            layer.register_forward_hook(lambda layer, *_: heard.append(type(layer).__name__))
    logits_on(model, digits(0))
    assert heard == ["ReLU", "Dropout"] * 3


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Identity])
def test_dropout_without_a_relu_is_refused(kind: type[nn.Module]) -> None:
    def architecture() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 8), kind(), nn.Linear(8, 10))

    with pytest.raises(ValueError, match=r"nn\.ReLU.*Sequential has none"):
        trained(Dropout(), architecture=architecture)


# --- early stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 4])
def test_early_stopping_keeps_the_best_epoch(patience: int) -> None:
    records, reference = noise(0), noise(1)
    inputs, labels = torch.from_numpy(reference.features), torch.from_numpy(reference.labels)
    losses: list[float] = []

    def measure(model: nn.Module) -> bool:
        assert not model.training
        losses.append(mean_cross_entropy(model, inputs, labels).item())
        return False

    train(new_model(noise_network, 3), records, 30, 3, stops_at=measure)
    best = int(np.argmin(losses)) + 1
    assert 1 < best < 20, "the loss must fall and rise for this test to see anything"
    assert all(np.diff(losses[:best]) < 0)

    heard: list[int] = []
    stopped = EarlyStopping(patience).train(
        noise_network, records, 30, 3, reference, on_epoch=heard.append
    )
    assert heard == list(range(1, best + patience + 1))
    expected = Plain().train(noise_network, records, best, 3)
    assert torch.equal(parameters(stopped), parameters(expected))


def test_early_stopping_ends_with_the_epochs() -> None:
    heard: list[int] = []
    trained(EarlyStopping(patience=100), epochs=4, on_epoch=heard.append)
    assert heard == [1, 2, 3, 4]


# --- confidence and HAMP ----------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.25, 0.5], [1.0, 1.0, 1.0]]).log()
    assert mean_entropy(logits).item() == pytest.approx((1.5 * math.log(2) + math.log(3)) / 2)


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]])
LABELS = torch.tensor([0, 0])


def loss_of(recipe: LossRecipe) -> float:
    loss = recipe.make_loss(noise(0), None, 0)
    return loss(fixed_logits(LOGITS), torch.zeros(2, 1), LABELS).item()


def test_losses_by_hand() -> None:
    log_probs = LOGITS.log_softmax(dim=1)
    probs = log_probs.exp()
    plain = -log_probs[:, 0].mean().item()
    entropy = -(probs * log_probs).sum(dim=1).mean().item()

    uniform = -log_probs.mean().item()
    assert loss_of(LabelSmoothing(0.2)) == pytest.approx(0.8 * plain + 0.2 * uniform)
    assert loss_of(ConfidencePenalty(0.3)) == pytest.approx(plain - 0.3 * entropy)

    target = soft_labels(3, 0.5)[0].float()
    divergence = (target * (target.log() - log_probs)).sum(dim=1).mean().item()
    own_entropy = 0.5 * math.log(3)
    expected = divergence + own_entropy - 0.3 * entropy
    assert loss_of(HAMPTraining(0.5, 0.3)) == pytest.approx(expected, rel=1e-5)


@given(k=st.integers(2, 300), threshold=st.floats(0.001, 0.999))
@settings(deadline=None)
def test_soft_labels_have_the_entropy_asked_for(k: int, threshold: float) -> None:
    labels = soft_labels(k, threshold)
    assert labels.shape == (k, k)
    assert torch.allclose(labels.sum(dim=1), torch.ones(k, dtype=torch.float64), atol=1e-12)
    entropies = torch.special.entr(labels).sum(dim=1)
    assert torch.allclose(entropies, entropies.new_tensor(threshold * math.log(k)), atol=1e-9)
    assert torch.equal(labels.argmax(dim=1), torch.arange(k))
    others = labels[~torch.eye(k, dtype=torch.bool)]
    assert torch.equal(others, others[:1].expand_as(others))


def test_soft_labels_by_hand() -> None:
    of_two = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    expected = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    assert torch.allclose(soft_labels(2, of_two), expected, atol=1e-9)


def test_hamp_trains_towards_its_soft_label() -> None:
    model = overfitted(HAMPTraining(entropy_threshold=0.5, entropy_weight=0.0))
    certainty = soft_labels(10, 0.5)[0, 0].item()
    assert confidence(model, digits(0)) == pytest.approx(certainty, abs=0.1)
    assert confidence(overfitted(Plain()), digits(0)) > certainty + 0.15


# --- RelaxLoss --------------------------------------------------------------------------------


@pytest.mark.parametrize("target_loss", [0.3, 0.6, 1.0])
def test_relax_loss_ends_near_its_target(target_loss: float) -> None:
    model = overfitted(RelaxLoss(target_loss))
    loss = cross_entropy(logits_on(model, digits(0)), torch.from_numpy(digits(0).labels))
    assert loss.item() == pytest.approx(target_loss, rel=0.2)


def test_flattening_by_hand() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    logits = probs.log().requires_grad_()
    loss = flattening_loss(logits, torch.tensor([0, 0]))
    expected = -(0.2 * math.log(0.2) + 0.4 * math.log(0.5) + 0.4 * math.log(0.3)) / 2
    assert loss.item() == pytest.approx(expected)

    loss.backward()
    # The soft-max less the flattened row, which is a constant; nothing for the right prediction.
    gradient = torch.tensor([[0.0, 0.1, -0.1], [0.0, 0.0, 0.0]]) / 2
    assert logits.grad is not None
    assert torch.allclose(logits.grad, gradient, atol=1e-6)


def test_relax_loss_goes_by_loss_and_epoch() -> None:
    records = noise(0, BATCH + 1)  # two batches an epoch
    plain = cross_entropy(LOGITS, LABELS).item()
    flat = flattening_loss(LOGITS, LABELS).item()

    def losses(target_loss: float) -> list[float]:
        loss = RelaxLoss(target_loss).make_loss(records, None, 0)
        model = fixed_logits(LOGITS)
        return [loss(model, torch.zeros(2, 1), LABELS).item() for _ in range(6)]

    assert losses(plain / 2) == pytest.approx([plain] * 6)
    assert losses(2 * plain) == pytest.approx([flat, flat, -plain, -plain, flat, flat])


# --- adversarial regularisation ---------------------------------------------------------------


def test_the_inference_network_reads_predictions_and_labels() -> None:
    network = new_model(lambda: InferenceNetwork(3), 0)
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    log_odds = network(probs, torch.tensor([0, 1, 0]))
    assert log_odds.shape == (3,)
    assert len(log_odds.unique()) == 3


def test_the_inference_network_tells_members_apart() -> None:
    members, others = noise(0), noise(1)
    classifier = Plain().train(noise_network, members, 300, 0)
    inputs, labels = torch.from_numpy(members.features), torch.from_numpy(members.labels)
    recipe = AdversarialRegularization(weight=1.0, inference_steps=50)
    loss = recipe.make_loss(members, others, 0)
    with torch.no_grad():
        plain = mean_cross_entropy(classifier, inputs, labels).item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The classifier stands still, so the gain is what the inference network has learnt of it.
        gains = [loss(classifier, inputs, labels).item() - plain for _ in range(6)]
    assert gains[0] < math.log(0.7)
    assert gains[-1] > math.log(0.75)


# --- mixup and the mean discrepancy -----------------------------------------------------------

ROWS = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(0, 1, width=32)
)


@given(x=ROWS, y=ROWS)
@settings(deadline=None)
def test_the_discrepancy_is_a_squared_distance(x: Any, y: Any) -> None:
    left, right = torch.from_numpy(x), torch.from_numpy(y)
    assert squared_mmd(left, left).item() == pytest.approx(0, abs=1e-6)
    assert squared_mmd(left, right).item() >= -1e-6
    assert squared_mmd(left, right).item() == pytest.approx(
        squared_mmd(right, left).item(), abs=1e-6
    )


def test_the_discrepancy_by_hand() -> None:
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert squared_mmd(x, y).item() == pytest.approx(2 - 2 * math.exp(-1))
    both = torch.cat([x, y])
    expected = 1 + (1 + math.exp(-1)) / 2 - (1 + math.exp(-1))
    assert squared_mmd(x, both).item() == pytest.approx(expected)


def test_mixup_is_training_on_mixed_records_with_mixed_labels() -> None:
    model = new_model(noise_network, 0)
    inputs, labels = torch.from_numpy(noise(0).features), torch.from_numpy(noise(0).labels)
    share: Any = SimpleNamespace(sample=lambda: torch.tensor(0.3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        loss = mixup_loss(model, inputs, labels, share)
        torch.manual_seed(5)
        second = torch.randperm(len(inputs))
    targets = one_hot(labels, 3).float()
    expected = cross_entropy(
        model(0.3 * inputs + 0.7 * inputs[second]), 0.3 * targets + 0.7 * targets[second]
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_predictions_of_a_class_are_drawn_together() -> None:
    def mean_discrepancy(model: nn.Module) -> float:
        of_class = []
        for label in range(10):
            members, others = (
                logits_on(model, part.take(np.flatnonzero(part.labels == label))).softmax(dim=1)
                for part in (digits(0), digits(1))
            )
            of_class.append(squared_mmd(members, others).item())
        return float(np.mean(of_class))

    without, with_it = (overfitted(MixupMMD(mmd_weight=weight)) for weight in (0.0, 10.0))
    assert mean_discrepancy(with_it) < 0.7 * mean_discrepancy(without)


def test_every_class_needs_reference_records() -> None:
    of_most = digits(1).take(np.flatnonzero(~np.isin(digits(1).labels, [4, 7])))
    with pytest.raises(ValueError, match=r"reference records of every class.*none of class 4"):
        trained(MixupMMD(), reference=of_most)
    of_those = digits(0).take(np.flatnonzero(~np.isin(digits(0).labels, [4, 7])))
    trained(MixupMMD(), epochs=1, records=of_those, reference=of_most)
