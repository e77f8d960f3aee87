"""DP-SGD: gradients clipped record by record, under noise that hides what any one record adds.

The only one of the recipes with a proof. It needs Opacus, of the extra ``dp``.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aeppt.data.records import Records
from aeppt.models.shadows import model_seed
from aeppt.models.training import BATCH, Architecture, OnEpoch, mean_cross_entropy, new_model
from aeppt.recipes.base import Recipe

#: Orders of Rényi divergence: Opacus's own, and more for very little noise and for very much.
ORDERS = (
    *(1.001, 1.002, 1.005, 1.01, 1.02, 1.05),
    *(order / 10 for order in range(11, 110)),
    *range(11, 64),
    *(64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024),
)


@dataclass(frozen=True)
class DPSGD(Recipe):
    """Differentially private stochastic gradient descent (Abadi et al. 2016, ACM CCS, algorithm 1).

    Through Opacus (Yousefpour et al. 2021, arXiv 2109.12298). In each step every record takes part
    with the same probability, independently (Poisson sampling); its gradient is scaled down to
    ``max_gradient_norm`` where it is longer, and noise is added to the sum. By :meth:`epsilon` the
    trained model is (ε, δ)-differentially private with respect to adding or removing one record,
    whatever the attacker knows. That holds for one training: choosing settings by results on the
    members, or training again, spends more.

    The noise and the sampling are drawn from ``random_state`` by torch's ordinary generator, so
    that results can be repeated. Who knows the seed can take the noise away again, and
    floating-point noise is not the proof's Gaussian (Mironov 2012, ACM CCS). So the guarantee is
    the algorithm's, for experiments; a deployment needs secure randomness, as Opacus's
    ``secure_mode``.

    Layers that mix the records of a batch, such as batch norm, are refused.

    Parameters
    ----------
    noise_multiplier : float
        The noise's standard deviation, as a multiple of ``max_gradient_norm``; at least 0, which
        protects nothing. The paper has 2, 4 and 8, on 60,000 records.
    max_gradient_norm : float
        The Euclidean norm that a record's gradient is clipped to; above 0.
    learning_rate : float
        Of plain gradient descent; above 0. The paper has 0.05 to 0.1.

    Raises
    ------
    ValueError
        A parameter is out of range, or, from :meth:`train`, the architecture has a layer that mixes
        records.
    ImportError
        From the methods: Opacus is not installed.
    """

    noise_multiplier: float = 1.0
    max_gradient_norm: float = 1.0
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"noise_multiplier must be at least 0 and finite, got {self.noise_multiplier}"
            )
        for name in ("max_gradient_norm", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`; an epoch is as many steps as a pass in batches would be."""
        privacy_engine = _opacus().PrivacyEngine
        # Streams of their own, lest the noise depend on who was drawn.
        sampling, noise = (
            torch.Generator().manual_seed(model_seed(random_state, stream)) for stream in range(2)
        )
        dataset = TensorDataset(
            torch.from_numpy(records.features), torch.from_numpy(records.labels)
        )
        model = new_model(architecture, random_state).train()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(random_state)  # for what the model draws itself
            warnings.filterwarnings("ignore", "Secure RNG turned off")  # the docstring tells
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # inputs need none
            private, optimizer, loader = privacy_engine().make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=self.learning_rate),
                data_loader=DataLoader(dataset, batch_size=BATCH, generator=sampling),
                noise_multiplier=self.noise_multiplier,
                max_grad_norm=self.max_gradient_norm,
                noise_generator=noise,
            )
            for epoch in range(epochs):
                for inputs, labels in loader:
                    optimizer.zero_grad()
                    mean_cross_entropy(private, inputs, labels).backward()
                    optimizer.step()
                if on_epoch is not None:
                    on_epoch(epoch + 1)
        # A new model, since Opacus leaves gradients without noise on the parameters it trained.
        released = new_model(architecture, random_state)
        released.load_state_dict(model.state_dict())
        return released.eval()

    def epsilon(self, n_records: int, epochs: int, delta: float) -> float:
        """The ε that training on ``n_records`` spends: an upper bound, by Rényi accounting.

        Mironov, Talwar & Zhang 2019 (arXiv 1908.10530), as computed by Opacus. Numerical accounting
        (Gopi et al. 2021) gives about a tenth less where noise is not small.

        Parameters
        ----------
        n_records : int
            How many records the training set has, at least 1.
        epochs : int
            At least 1.
        delta : float
            With at most this probability the promise may fail; between 0 and 1, exclusive, and
            usually below 1 / ``n_records``.

        Raises
        ------
        ValueError
            A parameter is out of range.
        """
        rate, steps = _sampling(n_records, epochs, delta)
        if self.noise_multiplier == 0:
            return math.inf
        accountant = _opacus().accountants.RDPAccountant()
        accountant.history = [(self.noise_multiplier, rate, steps)]
        return float(accountant.get_epsilon(delta, alphas=ORDERS))

    def with_epsilon(self, epsilon: float, n_records: int, epochs: int, delta: float) -> DPSGD:
        """The same with just the noise, to 0.01 of ε, for training to spend at most ``epsilon``.

        Parameters are those of :meth:`epsilon`.

        Raises
        ------
        ValueError
            A parameter is out of range, or ``epsilon`` is not above 0 and finite.
        """
        rate, steps = _sampling(n_records, epochs, delta)
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be above 0 and finite, got {epsilon}")
        noise = _opacus().accountants.utils.get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=rate,
            steps=steps,
            accountant="rdp",
            alphas=ORDERS,
        )
        return replace(self, noise_multiplier=noise)


def _sampling(n_records: int, epochs: int, delta: float) -> tuple[float, int]:
    """A record's probability of taking part in a step, and the number of steps."""
    for name, value in (("n_records", n_records), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, exclusive, got {delta}")
    rate = 1 / math.ceil(n_records / BATCH)
    return rate, epochs * int(1 / rate)  # rounded as Opacus does


def _opacus() -> Any:
    try:
        import opacus
    except ImportError as error:
        raise ImportError(
            "DP-SGD needs Opacus, which is not installed: pip install opacus"
        ) from error
    return opacus
