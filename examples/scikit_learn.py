"""A scikit-learn pipeline behind a defense: accuracy stays, and its training records hide.

    python scikit_learn.py

Needs the extra serve, for skops. Leaves model.skops and defense.safetensors in the folder "digits";
gateway/ serves them.
"""

from pathlib import Path

import numpy as np
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeppt import PrivacyFunnel, ProtectedClassifier, load_defense

# The pipeline is trained on the members. So few are learnt by heart, which is what leaks.
pixels, labels = load_digits(return_X_y=True)
members, others, member_labels, other_labels = train_test_split(
    pixels, labels, train_size=200, stratify=labels, random_state=0
)
pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=100))
pipeline.fit(members, member_labels)

# Half of the members, and as many others, are there to fit the defense; the rest to judge it.
fitting = np.concatenate([members[:100], others[:100]])
fitting_labels = np.concatenate([member_labels[:100], other_labels[:100]])
judging = np.concatenate([members[100:], others[100:]])
judging_labels = np.concatenate([member_labels[100:], other_labels[100:]])
is_member = np.arange(len(judging)) < 100

# The seed makes this example repeatable. In production leave it out: the key is secret then.
defense = PrivacyFunnel(random_state=0)
defense.fit(pipeline.predict_proba(fitting), np.arange(200) < 100, fitting_labels)
served = ProtectedClassifier(pipeline, defense)

# An attacker takes the surest predictions for members'. An area of one half is guessing.
for name, classifier in (("undefended", pipeline), ("protected", served)):
    accuracy = accuracy_score(judging_labels, classifier.predict(judging))
    attack = roc_auc_score(is_member, classifier.predict_proba(judging).max(axis=1))
    print(f"{name:>10}: {accuracy:.2%} right; area under the attack's ROC curve {attack:.3f}")

folder = Path("digits")
folder.mkdir(exist_ok=True)
skops.io.dump(pipeline, folder / "model.skops")
defense.save(folder / "defense.safetensors")

again = ProtectedClassifier(
    skops.io.load(folder / "model.skops"), load_defense(folder / "defense.safetensors")
)
assert np.array_equal(again.predict_proba(judging), served.predict_proba(judging))
print(f"saved: {folder}/model.skops and {folder}/defense.safetensors give the same answers")
