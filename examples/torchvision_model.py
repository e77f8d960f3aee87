"""A torchvision model behind a defense, attacked: what still leaks, beside the label-only floor.

    python torchvision_model.py

Needs the extra vision. Trains a small ResNet on handwritten digits, and the attacker's shadow model
on others; fits a defense; and audits it by attackers who do not know it and by attackers who do.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models.resnet import BasicBlock, ResNet

from aeppt import Predictions, PrivacyFunnel, ProtectedModel, audit

# Digits as colour images of 16 × 16 pixels, in random order.
pixels, digits = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
small = torch.tensor(pixels[order] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
images = interpolate(small, size=(16, 16), mode="bilinear").expand(-1, 3, -1, -1)
labels = torch.from_numpy(digits[order])

# Who has which: no image is in two parts.
member, known_other, asked_other, shadow_member, shadow_other = np.split(np.arange(1000), 5)


def trained(rows: NDArray[np.int64], seed: int) -> nn.Module:
    """A ResNet of ten layers, trained on these images until it knows them by heart."""
    torch.manual_seed(seed)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        for batch in torch.from_numpy(rows)[torch.randperm(len(rows))].split(100):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    return model


def predictions(
    model: nn.Module, members: NDArray[np.int64], others: NDArray[np.int64]
) -> Predictions:
    """What the model says of these images, and which of them it was trained on."""
    rows = np.concatenate([members, others])
    with torch.no_grad():
        probs: Tensor = model(images[rows]).softmax(dim=1)
    return Predictions(probs.numpy(), labels[rows].numpy(), np.isin(rows, members))


model, shadow = trained(member, seed=0), trained(shadow_member, seed=1)

# The seed makes this example repeatable. In production leave it out: the key is secret then.
defense = PrivacyFunnel(random_state=0)
defense.fit_predictions(predictions(model, member, known_other))

served = ProtectedModel(model, defense)  # logits in, protected log-probabilities out
same = (served(images[asked_other]).argmax(1) == model(images[asked_other]).argmax(1)).all()
print(f"every label stays: {bool(same)}")

report = audit(
    target=predictions(model, member, asked_other),
    shadow=predictions(shadow, shadow_member, shadow_other),
    defense=defense,
)
table = report.table.pivot(index="attack", columns="setting", values="balanced_accuracy")
print(table[["undefended", "static", "adaptive"]].round(3))
print(f"label-only floor: {report.floor.value:.3f}; guessing: 0.500")
