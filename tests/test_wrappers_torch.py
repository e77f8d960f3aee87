"""Torch models behind a defense: the best few, many labels at once, Lightning, and export."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import aeppt_ext
from aeppt import AEPPT, Predictions, PrivacyFunnel, ProtectedModel, ProtectedMultiLabel
from aeppt.defenses import OutputDefense
from aeppt.models import top_k, two_class_rows
from aeppt.models.multi_label import log_odds, protected_sigmoid
from aeppt.serving.model_files import load_model_file

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cpp"


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(300, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))
    with torch.no_grad():
        layers[2].weight *= 8
    return layers.eval()


@pytest.fixture(scope="module", params=[AEPPT(hidden=(8,)), PrivacyFunnel(random_state=0)])
def defense(request: pytest.FixtureRequest, known: Predictions) -> OutputDefense:
    """The two kinds of compiled op."""
    fitted: OutputDefense = request.param.fit(known.probs, known.is_member)
    return fitted


# --- the best few -----------------------------------------------------------------------------


def test_the_best_few_are_of_the_protected_vector(
    model: nn.Module, inputs: Tensor, fitted: AEPPT
) -> None:
    protected = ProtectedModel(model, fitted)
    values, classes = protected.top_k(inputs, 3)
    probs = protected.predict_proba(inputs)
    assert torch.equal(values, probs.sort(dim=1, descending=True).values[:, :3])
    assert torch.equal(probs.gather(1, classes), values)
    assert torch.equal(classes[:, 0], model(inputs).argmax(1))


def test_ties_are_ranked_by_class() -> None:
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]]).repeat(40, 1)
    classes = top_k(probs, 4)[1]
    assert classes[::2].tolist() == [[0, 1, 2, 3]] * 40
    assert classes[1::2].tolist() == [[1, 3, 0, 2]] * 40
    for k in (0, 5):
        with pytest.raises(ValueError, match=rf"k must be in \[1, 4\].*got {k}"):
            top_k(probs, k)


# --- many labels at once ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[AEPPT(hidden=(8,)), PrivacyFunnel(random_state=0)])
def two_class(request: pytest.FixtureRequest, make_predictions: Any) -> OutputDefense:
    rng = np.random.default_rng(0)
    probs = np.concatenate([rng.beta(0.2, 0.2, (200, 5)), rng.beta(1, 1, (200, 5))])
    is_member = np.repeat(np.arange(400) < 200, 5)
    fitted: OutputDefense = request.param.fit(two_class_rows(probs), is_member)
    return fitted


def test_rows_are_no_and_yes() -> None:
    probs = np.array([[0.25, 1.0], [0.5, 0.0]])
    wanted = [[0.75, 0.25], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert two_class_rows(probs).tolist() == wanted
    assert two_class_rows(torch.from_numpy(probs)).tolist() == wanted


def test_each_label_is_protected_and_stays(
    model: nn.Module, inputs: Tensor, two_class: OutputDefense
) -> None:
    protected = ProtectedMultiLabel(model, two_class)
    plain = model(inputs).detach().double().sigmoid()
    probs, odds = protected.predict_proba(inputs), protected(inputs)
    assert probs.shape == odds.shape == (300, 5)
    assert not odds.requires_grad
    assert torch.equal(probs > 0.5, plain > 0.5)
    assert torch.equal(odds > 0, plain > 0.5)
    wanted = two_class.protect(two_class_rows(plain.float()))[:, 1].reshape(300, 5)
    torch.testing.assert_close(probs, wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(odds.double().sigmoid().float(), probs, atol=1e-5, rtol=0)
    assert (probs - plain).abs().mean() > 0.01


def test_an_output_depends_on_itself_alone(
    model: nn.Module, inputs: Tensor, two_class: OutputDefense
) -> None:
    protected = ProtectedMultiLabel(nn.Identity(), two_class)
    logits = model(inputs).detach()
    together = protected(logits)
    assert torch.equal(together[:, 2:3], protected(logits[:, 2:3]))
    assert torch.equal(together[:7], protected(logits[:7]))
    assert torch.equal(together[123:124], protected(logits[123:124]))


def test_outputs_at_one_half_and_at_the_ends(two_class: OutputDefense) -> None:
    logits = torch.tensor([[0.0, 1e-9, 3e-7, -3e-7, 200.0, -200.0]])
    protected = ProtectedMultiLabel(nn.Identity(), two_class)
    says_yes = [[False, False, True, False, True, False]]  # float32 rounds 1e-9 to one half
    assert (protected.predict_proba(logits) > 0.5).tolist() == says_yes
    assert (protected(logits) > 0).tolist() == says_yes
    assert torch.isfinite(protected(logits)).all()


def test_labels_stay_where_a_defense_ends_at_one_half() -> None:
    class Half(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return torch.full_like(rows, 0.5)

    probs = protected_sigmoid(torch.tensor([[2.0, -2.0]]), Half())
    assert (probs > 0.5).tolist() == [[True, False]]
    assert (log_odds(probs) > 0).tolist() == [[True, False]]


def test_other_defenses_and_logits_are_refused(fitted: AEPPT, two_class: OutputDefense) -> None:
    with pytest.raises(ValueError, match=r"two_class_rows.*fitted on 5"):
        ProtectedMultiLabel(nn.Identity(), fitted)
    protected = ProtectedMultiLabel(nn.Identity(), two_class)
    with pytest.raises(ValueError, match=r"logits \[n, m\], got \[3\]"):
        protected(torch.zeros(3))
    with pytest.raises(ValueError, match="row 3 "):
        protected(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]))


# --- Lightning --------------------------------------------------------------------------------


def test_a_trainer_predicts_protected(
    model: nn.Module, inputs: Tensor, fitted: AEPPT, tmp_path: Path
) -> None:
    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, batch: Tensor) -> Tensor:
            return self.layers(batch)

    class Served(lightning.LightningModule):
        def __init__(self, classifier: nn.Module) -> None:
            super().__init__()
            self.protected = ProtectedModel(classifier, fitted)

        def predict_step(self, batch: list[Tensor]) -> Tensor:
            return self.protected.predict_proba(batch[0])

    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = DataLoader(TensorDataset(inputs), batch_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises more workers
        batches = trainer.predict(Served(Classifier()), loader)
    wanted = fitted.protect(model(inputs).softmax(1).detach())
    assert torch.equal(torch.cat(batches), wanted)
    # A classifier that is a LightningModule may be wrapped like any other module.
    assert torch.equal(ProtectedModel(Classifier(), fitted).predict_proba(inputs), wanted)


# --- export -----------------------------------------------------------------------------------


def exported(module: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(module, (inputs[:4],), dynamic_shapes=({0: batch},))


def test_an_exported_model_answers_the_same(
    model: nn.Module, inputs: Tensor, defense: OutputDefense, tmp_path: Path
) -> None:
    protected = ProtectedModel(model, defense)
    torch.export.save(exported(protected, inputs), tmp_path / "protected.pt2")
    loaded = torch.export.load(tmp_path / "protected.pt2").module()
    served = load_model_file(tmp_path / "protected.pt2")
    for rows in (inputs, inputs[:1], inputs[7:40]):
        assert torch.equal(loaded(rows), protected(rows))
        answer = served({served.inputs[0].name: rows.numpy()})[served.outputs[0].name]
        np.testing.assert_array_equal(answer, protected(rows).numpy())


def test_labels_at_once_can_be_exported(
    model: nn.Module, inputs: Tensor, two_class: OutputDefense
) -> None:
    protected = ProtectedMultiLabel(model, two_class)
    loaded = exported(protected, inputs).module()
    assert torch.equal(loaded(inputs), protected(inputs))


class Both(nn.Module):
    """A model behind each of the two compiled ops."""

    def __init__(self, model: nn.Module, known: Predictions) -> None:
        super().__init__()
        defenses = (PrivacyFunnel(random_state=0), AEPPT(hidden=(8,)))
        self.protected = nn.ModuleList(
            ProtectedModel(model, defense.fit(known.probs, known.is_member)) for defense in defenses
        )

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return [protected(inputs) for protected in self.protected]


@pytest.mark.slow
def test_a_compiled_package_answers_the_same_in_python_and_in_cpp(
    model: nn.Module, inputs: Tensor, known: Predictions, tmp_path: Path
) -> None:
    both = Both(model, known)
    package = torch._inductor.aoti_compile_and_package(
        exported(both, inputs),
        package_path=str(tmp_path / "protected.pt2"),
        # Quick to compile: headers are needed once, and vector code is not what is tested.
        inductor_configs={
            "cpp.vec_isa_ok": False,
            "aot_inductor.precompile_headers": False,
            "cpp_cache_precompile_headers": False,
            "aot_inductor.compile_wrapper_opt_level": "O0",
        },
    )
    loaded = torch._inductor.aoti_load_package(package)
    for rows in (inputs, inputs[:1], inputs[7:40]):
        for got, wanted in zip(loaded(rows), both(rows), strict=True):
            # Compiled soft-max and logarithm round otherwise in the last bit.
            torch.testing.assert_close(got.exp(), wanted.exp(), atol=1e-5, rtol=0)
            assert torch.equal(got.argmax(1), wanted.argmax(1))

    if aeppt_ext.ops.compiled is None:
        pytest.skip("without a compiled extension there is no library for C++")
    build = tmp_path / "cpp"
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    run(["cmake", "-S", EXAMPLE, "-B", build, f"-DPython_EXECUTABLE={sys.executable}"])
    run(["cmake", "--build", build])
    text = "\n".join(" ".join(map(repr, row)) for row in inputs.tolist())
    printed = run(
        [build / "protected_probabilities", package, aeppt_ext.ops.compiled.__file__], input=text
    ).stdout
    probs = np.array([line.split() for line in printed.splitlines()], dtype=np.float32)
    np.testing.assert_array_equal(probs, loaded(inputs)[0].exp().numpy())
