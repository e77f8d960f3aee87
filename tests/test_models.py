"""Models behind a defense: every kind of inner model, the labels they keep, and wrong uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from aeppt import AEPPT, Predictions, ProtectedClassifier, ProtectedFunction, ProtectedModel
from aeppt.data import Records
from aeppt.models import predict_probs, train_classifier


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    """Six inputs, five classes, fairly confident; with layers that behave otherwise in training."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)
    )
    with torch.no_grad():
        layers[4].weight *= 8
    return layers.eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def assert_log_probabilities(output: Tensor, logits: Tensor) -> None:
    """Finite, normalised, and of the label that the model's soft-max has."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    assert output.dtype == dtype
    assert output.shape == logits.shape
    assert not output.requires_grad
    assert torch.isfinite(output).all()
    assert (output.exp().sum(dim=1, dtype=torch.float64) - 1).abs().max() < 2e-6
    expected = torch.softmax(logits.detach(), dim=1, dtype=dtype).argmax(dim=1)
    assert torch.equal(output.argmax(dim=1), expected)


# --- torch ------------------------------------------------------------------------------------


def test_outputs_are_the_protected_soft_max(
    model: nn.Sequential, inputs: Tensor, fitted: AEPPT
) -> None:
    protected = ProtectedModel(model, fitted)
    logits = model(inputs).detach()
    expected = fitted.protect(torch.softmax(logits, dim=1))
    assert torch.equal(protected.predict_proba(inputs), expected)
    assert not torch.allclose(expected, torch.softmax(logits, dim=1), atol=1e-3)
    assert_log_probabilities(protected(inputs), logits)
    assert torch.equal(protected(inputs), protected.predict_proba(inputs).log())


def test_the_model_is_not_changed(model: nn.Sequential, inputs: Tensor, fitted: AEPPT) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(inputs)
    protected = ProtectedModel(model, fitted)
    protected(inputs)
    assert protected.model is model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(inputs), logits)


def test_it_stays_in_eval_mode(inputs: Tensor, fitted: AEPPT) -> None:
    inner = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5)).train()
    protected = ProtectedModel(inner, fitted)
    assert protected.train() is protected
    assert not any(module.training for module in protected.modules())
    assert torch.equal(protected(inputs), protected(inputs)), "dropout is still drawn"


def test_a_scripted_model(model: nn.Sequential, inputs: Tensor, fitted: AEPPT) -> None:
    scripted = ProtectedModel(torch.jit.script(model), fitted)
    assert torch.equal(scripted(inputs), ProtectedModel(model, fitted)(inputs))


@pytest.mark.parametrize("which", ["inner", "whole"])
def test_compilation_with_a_plain_backend_is_bit_equal(
    which: str, model: nn.Sequential, inputs: Tensor, fitted: AEPPT
) -> None:
    def compiled(module: nn.Module) -> Any:
        return torch.compile(module, fullgraph=True, backend="aot_eager")

    eager = ProtectedModel(model, fitted)
    protected = ProtectedModel(compiled(model), fitted) if which == "inner" else compiled(eager)
    assert torch.equal(protected(inputs), eager(inputs))
    assert torch.equal(protected(inputs[:7]), eager(inputs[:7]))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["inner", "whole"])
def test_compilation_with_the_usual_backend_is_close(
    which: str, model: nn.Sequential, inputs: Tensor, fitted: AEPPT
) -> None:
    eager = ProtectedModel(model, fitted)
    protected = (
        ProtectedModel(torch.compile(model, fullgraph=True), fitted)  # type: ignore[arg-type]
        if which == "inner"
        else torch.compile(eager, fullgraph=True)
    )
    output = protected(inputs)
    assert_log_probabilities(output, model(inputs))
    # Other rounding of the soft-max may stop the search elsewhere within its last bisection.
    assert torch.allclose(output.exp(), eager(inputs).exp(), atol=2e-3)


def test_a_vision_model() -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    vision = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    images = torch.randn(6, 3, 32, 32)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.dirichlet(np.full(10, a), 100) for a in (0.2, 1.0)])
    defense = AEPPT(hidden=(8,)).fit(rows, np.repeat([1, 0], 100))
    protected = ProtectedModel(vision, defense)
    with torch.no_grad():
        logits = vision(images)
    assert_log_probabilities(protected(images), logits)
    assert not torch.allclose(protected(images).exp(), logits.softmax(dim=1), atol=1e-4)


def test_under_autocast(model: nn.Sequential, inputs: Tensor, fitted: AEPPT) -> None:
    protected = ProtectedModel(model, fitted)
    with torch.autocast("cpu", torch.bfloat16):
        output, logits = protected(inputs), model(inputs)
    assert logits.dtype == torch.bfloat16
    assert_log_probabilities(output, logits)
    expected = fitted.protect(torch.softmax(logits.detach(), dim=1, dtype=torch.float32))
    assert torch.equal(output, expected.log()), "the search itself must not run in bfloat16"


def test_a_model_in_float64(inputs: Tensor, fitted: AEPPT) -> None:
    torch.manual_seed(2)
    double = nn.Linear(6, 5).double()
    protected = ProtectedModel(double, fitted)
    assert_log_probabilities(protected(inputs.double()), double(inputs.double()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_with_ties(dtype: torch.dtype, fitted: AEPPT) -> None:
    logits = (
        torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).mul(2).round().to(dtype)
    )
    assert (logits.topk(2, dim=1).values.diff(dim=1) == 0).any(), "no tie to test"
    assert_log_probabilities(ProtectedModel(nn.Identity(), fitted)(logits), logits)


def test_certain_logits_give_no_minus_infinity(known: Predictions) -> None:
    defense = AEPPT(hidden=(4,), direction="member", max_steps=0).fit(known.probs, known.is_member)
    logits = torch.tensor([[300.0, 0, 0, 0, 0], [0, 0, 0, 0, 120.0]])
    output = ProtectedModel(nn.Identity(), defense)(logits)
    assert_log_probabilities(output, logits)
    assert (output.exp()[0, 1:] < 1e-30).all()


def test_labels_survive_the_logarithm_next_to_a_tie(known: Predictions) -> None:
    # Rows that the search returns as they are, the label one unit in the last place ahead of an
    # earlier class: the float32 logarithms of the two are often equal.
    defense = AEPPT(hidden=(4,), direction="member", max_steps=0).fit(known.probs, known.is_member)
    logits = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)) - 2
    logits[:, 0] = torch.linspace(0.5, 1.0, 2000)
    logits[:, 1] = torch.nextafter(logits[:, 0], torch.tensor(9.0))
    logits = logits[torch.softmax(logits, dim=1).argmax(dim=1) == 1]
    assert len(logits) > 500
    protected = ProtectedModel(nn.Identity(), defense)
    assert (protected.predict_proba(logits).argmax(dim=1) == 1).all()
    assert_log_probabilities(protected(logits), logits)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (2, 3, 5)])
def test_a_wrong_number_of_classes_is_named(shape: tuple[int, ...], fitted: AEPPT) -> None:
    protected = ProtectedModel(nn.Identity(), fitted)
    with pytest.raises(ValueError, match=r"logits \[n, 5\].*got \[" + str(shape[0])):
        protected(torch.zeros(shape))


def test_logits_that_are_not_numbers_are_named(fitted: AEPPT) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2] = torch.nan
    with pytest.raises(ValueError, match="row 1 "):
        ProtectedModel(nn.Identity(), fitted)(logits)


def test_an_unfitted_defense_is_refused() -> None:
    with pytest.raises(NotFittedError):
        ProtectedModel(nn.Identity(), AEPPT())
    with pytest.raises(NotFittedError):
        ProtectedFunction(lambda rows: rows, AEPPT())


def test_no_inputs_give_no_outputs(model: nn.Sequential, fitted: AEPPT) -> None:
    assert ProtectedModel(model, fitted)(torch.empty(0, 6)).shape == (0, 5)


def test_state_survives_saving(model: nn.Sequential, inputs: Tensor, fitted: AEPPT) -> None:
    protected = ProtectedModel(model, fitted)
    state = {name: tensor.clone() for name, tensor in protected.state_dict().items()}
    assert {"defense.weight_0", "defense.bias_1"} <= set(state)
    other = AEPPT(hidden=(16,), random_state=3).fit(fitted.protect(np.full((2, 5), 0.2)), [0, 1])
    back = ProtectedModel(model, other)
    back.load_state_dict(state)
    assert torch.equal(back(inputs), protected(inputs))


# --- scikit-learn and functions ---------------------------------------------------------------


Fitted = tuple[Any, AEPPT, NDArray[np.float64]]


@pytest.fixture(
    scope="module",
    params=[
        RandomForestClassifier(30, random_state=0),
        LogisticRegression(max_iter=500),
    ],
    ids=["forest", "logistic"],
)
def behind(request: pytest.FixtureRequest) -> Fitted:
    """An estimator fitted on half of iris with names as labels, a defense for it, all features."""
    features, labels = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[labels]
    order = np.random.default_rng(0).permutation(len(labels))
    members = order[:75]
    estimator = clone(request.param).fit(features[members], names[members])
    probs = estimator.predict_proba(features)
    defense = AEPPT(hidden=(8,)).fit(probs, np.isin(np.arange(len(labels)), members))
    return estimator, defense, features


def test_a_classifier_keeps_its_labels(behind: Fitted) -> None:
    estimator, defense, features = behind
    protected = ProtectedClassifier(estimator, defense)
    plain = estimator.predict_proba(features)
    top = np.sort(plain, axis=1)
    untied = top[:, -1] > top[:, -2] + 1e-12
    assert untied.mean() > 0.9
    assert set(protected.predict(features)) == {"setosa", "versicolor", "virginica"}
    assert np.array_equal(protected.predict(features)[untied], estimator.predict(features)[untied])
    assert np.array_equal(protected.classes_, estimator.classes_)


def test_a_classifier_s_probabilities_are_protected(behind: Fitted) -> None:
    estimator, defense, features = behind
    protected = ProtectedClassifier(estimator, defense).predict_proba(features)
    plain = estimator.predict_proba(features)
    assert np.array_equal(protected, defense.protect(plain))
    assert np.abs(protected - plain).sum(axis=1).mean() > 0.01
    assert np.allclose(protected.sum(axis=1), 1)


def test_a_classifier_follows_scikit_learn(behind: Fitted) -> None:
    estimator, defense, features = behind
    protected = ProtectedClassifier(estimator, defense)
    assert is_classifier(protected)
    assert protected.get_params(deep=False) == {"estimator": estimator, "defense": defense}
    copy = clone(protected)  # what is fitted already stays so
    assert copy is not protected
    assert (copy.estimator, copy.defense) == (estimator, defense)
    labels = estimator.predict(features)
    assert protected.score(features, labels) > 0.98
    assert "ProtectedClassifier" in repr(protected)


def test_a_classifier_says_whether_it_is_fitted(behind: Fitted) -> None:
    estimator, defense, _ = behind
    check_is_fitted(ProtectedClassifier(estimator, defense))
    with pytest.raises(NotFittedError):
        check_is_fitted(ProtectedClassifier(estimator, AEPPT()))


def test_an_unfitted_part_is_named(behind: Fitted) -> None:
    estimator, defense, features = behind
    with pytest.raises(NotFittedError, match="AEPPT"):
        ProtectedClassifier(estimator, AEPPT()).predict_proba(features)
    with pytest.raises(NotFittedError, match=type(estimator).__name__):
        ProtectedClassifier(clone(estimator), defense).predict_proba(features)


def test_a_function_is_protected(fitted: AEPPT, known: Predictions) -> None:
    def answer(first: int, *, last: int) -> NDArray[np.floating]:
        return known.probs[first:last]

    protected = ProtectedFunction(answer, fitted)
    assert np.array_equal(protected(3, last=9), fitted.protect(known.probs[3:9]))
    with pytest.raises(ValueError, match=r"\[n, 5\]"):
        ProtectedFunction(lambda: np.eye(4), fitted)()


# --- the trainer of the demonstrations --------------------------------------------------------


def test_training_overfits_and_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 20)).astype(np.float32)
    records = Records(features, rng.integers(0, 3, 60), n_classes=3)
    epochs: list[int] = []
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = train_classifier(records, (128,), 100, 0, epochs.append)
    assert torch.equal(torch.get_rng_state(), state), "the global random state was used"
    assert epochs == list(range(1, 101))
    assert not model.training
    probs = predict_probs(model, records.features)
    assert probs.dtype == np.float32
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert (probs.argmax(axis=1) == records.labels).mean() > 0.95, "random labels, by heart"
    again = train_classifier(records, (128,), 100, 0)
    assert np.array_equal(predict_probs(again, records.features), probs)
    other = train_classifier(records, (128,), 100, 1)
    assert not np.array_equal(predict_probs(other, records.features), probs)


def test_predicting_keeps_the_model(model: nn.Sequential) -> None:
    features = np.zeros((3, 6), np.float32)
    first = predict_probs(model, features)
    assert np.array_equal(predict_probs(model, features), first)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_name_of_the_interface_is_there() -> None:
    import aeppt

    missing = [name for name in aeppt.__all__ if not hasattr(aeppt, name)]
    assert missing == []
    wrappers: list[Callable[..., Any]] = [ProtectedModel, ProtectedClassifier, ProtectedFunction]
    assert all(wrapper.__doc__ for wrapper in wrappers)
