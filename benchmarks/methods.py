"""``method="boundary"`` against ``method="step"`` on predictions of overfitted models.

python methods.py [--location FILE] [--cifar10 FILE] prints the table of docs/design.md.
For each data set a model is trained, the default substitute is fitted on predictions of the records
that it was trained on and as many others, and other records are protected.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

from aeppt import AEPPT
from aeppt.data import Records, load_cifar10, load_digits, load_location, split_records
from aeppt.evaluation.demonstration import SETUPS, predictions_on
from aeppt.models import train_classifier
from aeppt.predictions import Predictions


def demonstration_predictions(name: str, records: Records) -> tuple[Predictions, np.ndarray]:
    """What the defender knows, and rows to protect."""
    setup = SETUPS[name]
    split = split_records(records, setup.members, setup.shadow_members, random_state=0)
    model = train_classifier(split.members, setup.hidden, setup.epochs, 0)
    known = predictions_on(model, split.members, split.known_non_members)
    return known, predictions_on(model, split.members, split.fresh_non_members).probs


def cifar10_predictions(path: str) -> tuple[Predictions, np.ndarray]:
    """A small convolutional network, trained on 2,500 images until it knows them by heart."""
    records = load_cifar10(path, 7500, 0)
    inputs, labels = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, out in ((3, 32), (32, 64)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(25):
        for batch in torch.randperm(2500).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        probs = torch.cat([model(part).softmax(1) for part in inputs.split(500)]).numpy()
    known = Predictions(probs[:5000], labels[:5000].numpy(), np.arange(5000) < 2500)
    return known, np.concatenate([probs[:2500], probs[5000:]])


def compare(name: str, known: Predictions, rows: np.ndarray) -> None:
    """One line of the table for each method, direction and norm."""
    for direction in ("both", "member"):
        for norm in ("linf", "l2"):
            for method in ("step", "boundary"):
                defense = AEPPT(direction=direction, norm=norm, method=method)
                defense.fit(known.probs, known.is_member)
                _, info = defense.protect(rows, return_info=True)
                steps = np.asarray(info.steps)
                failed = np.isin(np.asarray(info.status), (2, 3)).mean()
                print(
                    f"| {name} | {direction}, {norm} | {method} | {1 - failed:.2%} "
                    f"| {np.mean(info.l1):.5f} | {steps.mean():.2f} "
                    f"| {np.quantile(steps, 0.99):.0f} | {(steps > 8).mean():.1%} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--location")
    parser.add_argument("--cifar10")
    arguments = parser.parse_args()
    print("| data | direction, norm | method | success | mean L1 | steps | 99 % | > 8 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    compare("digits", *demonstration_predictions("digits", load_digits()))
    if arguments.location:
        records = load_location(arguments.location)
        compare("Location", *demonstration_predictions("location", records))
    if arguments.cifar10:
        compare("CIFAR-10", *cifar10_predictions(arguments.cifar10))


if __name__ == "__main__":
    main()
