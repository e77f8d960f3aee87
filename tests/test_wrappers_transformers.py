"""Hugging Face classifiers behind a defense: what leaves them, and that pipelines take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2ForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from aeppt import AEPPT, Predictions, ProtectedTransformer
from aeppt.models import two_class_rows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = ["a good film", "bad", "a bad bad film"]


def bert(**options: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), intermediate_size=16, **TINY, **options)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight *= 100  # random weights are never sure of anything
    return model


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)})


@pytest.fixture(scope="module")
def two_class(make_predictions: Callable[..., Predictions]) -> AEPPT:
    known = make_predictions(k=2)
    return AEPPT(hidden=(8,)).fit(known.probs, known.is_member)


def test_only_protected_logits_leave(fitted: AEPPT, tokenizer: BertTokenizerFast) -> None:
    model = bert(num_labels=5)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    protected = ProtectedTransformer(model, fitted)
    output = protected(
        **batch, labels=torch.zeros(3).long(), output_hidden_states=True, output_attentions=True
    )
    assert isinstance(output, SequenceClassifierOutput)
    assert list(output.keys()) == ["logits"]
    assert output.loss is None
    assert output.hidden_states is None
    assert output.attentions is None
    probs = model(**batch).logits.softmax(1).detach()
    assert torch.equal(output.logits, fitted.protect(probs).log())
    assert not torch.allclose(output.logits.exp(), probs, atol=1e-3)
    [logits] = protected(**batch, return_dict=False)
    assert torch.equal(logits, output.logits)


def test_a_cache_does_not_leave(fitted: AEPPT) -> None:
    config = GPT2Config(
        vocab_size=8, n_embd=16, n_layer=1, n_head=2, num_labels=5, pad_token_id=0, use_cache=True
    )
    model = GPT2ForSequenceClassification(config).eval()
    tokens = torch.tensor([[1, 2, 3]])
    assert model(tokens).past_key_values is not None
    assert list(ProtectedTransformer(model, fitted)(tokens).keys()) == ["logits"]


def test_a_text_pipeline(fitted: AEPPT, tokenizer: BertTokenizerFast) -> None:
    model = bert(num_labels=5)
    protected = ProtectedTransformer(model, fitted)
    classify = pipeline("text-classification", model=protected, tokenizer=tokenizer, top_k=None)
    plain = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    for text, got in zip(TEXTS, classify(TEXTS), strict=True):
        probs = model(**tokenizer(text, return_tensors="pt")).logits.softmax(1).detach()
        wanted = fitted.protect(probs)[0]
        scores = {entry["label"]: entry["score"] for entry in got}
        for place, probability in enumerate(wanted.tolist()):
            assert scores[f"LABEL_{place}"] == pytest.approx(probability, abs=1e-6)
        assert got[0]["label"] == plain([text])[0][0]["label"]
    assert "ProtectedTransformer" in repr(classify)


def test_an_image_pipeline(fitted: AEPPT) -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, intermediate_size=16, num_labels=5, **TINY)
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    protected = ProtectedTransformer(model, fitted)
    classify = pipeline("image-classification", model=protected, image_processor=processor)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8))
    pixels = processor(image, return_tensors="pt")
    assert isinstance(protected(**pixels), ImageClassifierOutput)
    wanted = fitted.protect(model(**pixels).logits.softmax(1).detach())[0].sort(descending=True)
    scores = [entry["score"] for entry in classify(image)]
    assert scores == pytest.approx(wanted.values.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"num_labels": 3, "problem_type": "multi_label_classification"}, {"num_labels": 1}],
)
def test_labels_that_may_hold_together(
    options: dict[str, Any], two_class: AEPPT, tokenizer: BertTokenizerFast
) -> None:
    model = bert(**options)
    classify = pipeline(
        "text-classification",
        model=ProtectedTransformer(model, two_class),
        tokenizer=tokenizer,
        top_k=None,
    )
    for text, got in zip(TEXTS, classify(TEXTS), strict=True):
        probs = model(**tokenizer(text, return_tensors="pt")).logits.detach().sigmoid()
        wanted = two_class.protect(two_class_rows(probs))[:, 1]
        scores = {entry["label"]: entry["score"] for entry in got}
        for place, probability in enumerate(wanted.tolist()):
            assert scores[f"LABEL_{place}"] == pytest.approx(probability, abs=1e-4)


def test_what_does_not_fit_is_refused(fitted: AEPPT, two_class: AEPPT) -> None:
    with pytest.raises(ValueError, match="3 labels, but the defense was fitted on 5"):
        ProtectedTransformer(bert(num_labels=3), fitted)
    with pytest.raises(ValueError, match="two_class_rows"):
        ProtectedTransformer(bert(num_labels=5, problem_type="multi_label_classification"), fitted)
    with pytest.raises(ValueError, match="regression"):
        ProtectedTransformer(bert(num_labels=1, problem_type="regression"), two_class)


def test_it_says_of_the_model_what_servers_ask(fitted: AEPPT) -> None:
    model = bert(num_labels=5)
    protected = ProtectedTransformer(model, fitted)
    assert protected.config is model.config
    assert protected.device == torch.device("cpu")
    assert protected.dtype == torch.float32
    assert protected.main_input_name == "input_ids"
    assert not protected.train().training
    assert not hasattr(protected, "classifier"), "the model's own parts are not passed on"
