"""A Hugging Face classifier of sentences behind a defense, in a transformers pipeline.

    python hugging_face.py

Needs transformers; downloads nothing. Trains a tiny BERT on made-up reviews, fits a defense on its
predictions, and asks a pipeline that gives only protected scores.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    logging,
    pipeline,
)

from aeppt import PrivacyFunnel, ProtectedTransformer

# Sentences of a known label; but one label in five is wrong, and can only be learnt by heart.
LABELS = ["negative", "neutral", "positive"]
ADJECTIVES = [["awful", "dull", "poor"], ["long", "new", "short"], ["bright", "fine", "good"]]
SUBJECTS = ["actor", "book", "film", "meal", "plot", "room", "song", "staff", "story", "view"]
TIMES = ["again", "always", "here", "now", "often", "once", "still", "today", "twice", "yesterday"]
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 800)
sentences = [
    " ".join(rng.choice(words) for words in (SUBJECTS, SUBJECTS, ADJECTIVES[label], TIMES))
    for label in labels
]
labels = np.where(rng.random(800) < 0.2, rng.integers(0, 3, 800), labels)

words = sorted({word for sentence in sentences for word in sentence.split()})
numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
word_level = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
word_level.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=word_level, pad_token="[PAD]", unk_token="[UNK]"
)
inputs = tokenizer(sentences, return_tensors="pt")

# The first 200 sentences are the members: what the model is trained on.
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(numbers),
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=128,
    id2label=dict(enumerate(LABELS)),
)
model = BertForSequenceClassification(config)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(40):
    for rows in torch.randperm(200).split(50):
        optimizer.zero_grad()
        batch = {name: values[rows] for name, values in inputs.items()}
        model(**batch, labels=torch.from_numpy(labels)[rows]).loss.backward()
        optimizer.step()
model.eval()

# What the defense is fitted on; the other half of the sentences is asked below. The seed makes this
# example repeatable. In production leave it out: the key is secret then.
is_member = np.arange(800) < 200
with torch.no_grad():
    probs = model(**inputs).logits.softmax(dim=1).numpy()
defense = PrivacyFunnel(random_state=0).fit(probs[::2], is_member[::2], labels[::2])
served = ProtectedTransformer(model, defense)

logging.set_verbosity(logging.CRITICAL)  # pipelines warn of models that they do not know
plain, protected = (
    pipeline("text-classification", model=classifier, tokenizer=tokenizer)(sentences[1::2])
    for classifier in (model, served)
)
for sentence, before, after in zip(sentences[1::2], plain, protected, strict=True):
    if sentence.startswith("film"):
        print(f"{sentence:<24}{before['label']} {before['score']:.3f}, then {after['score']:.3f}")

same = [before["label"] == after["label"] for before, after in zip(plain, protected, strict=True)]
print(f"every label stays: {all(same)}")
own = np.isclose([after["score"] for after in protected], defense.protect(probs[1::2]).max(axis=1))
print(f"scores that are the defense's own: {own.sum()} of {len(own)}")
