"""A Hugging Face classifier of sentences behind a defense, in a transformers pipeline.

    python hugging_face.py

Needs transformers; downloads nothing. Trains a tiny BERT on made-up reviews, fits a defense on its
predictions, and asks a pipeline that gives only protected scores.
"""

import numpy as np
import torch
import transformers
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

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
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
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

# Every other sentence is there to fit the defense, the rest to judge it. The seed makes this
# example repeatable. In production leave it out: the key is secret then.
is_member = np.arange(800) < 200
with torch.no_grad():
    probs = model(**inputs).logits.softmax(dim=1).numpy()
defense = PrivacyFunnel(random_state=0).fit(probs[::2], is_member[::2], labels[::2])
served = ProtectedTransformer(model, defense)

transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # a pipeline knows its own
for name, classifier in (("undefended", model), ("protected", served)):
    classify = transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)
    first, *others = classify(sentences[1::2])
    attack = roc_auc_score(is_member[1::2], [answer["score"] for answer in (first, *others)])
    print(f"{name:>10}: {sentences[1]!r} is {first['label']}, score {first['score']:.3f};", end=" ")
    print(f"area under the attack's ROC curve {attack:.3f}")
