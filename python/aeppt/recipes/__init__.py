"""Ways of training a classifier that leak less of its training set."""

from aeppt.recipes.adversarial_regularization import AdversarialRegularization
from aeppt.recipes.base import Recipe
from aeppt.recipes.confidence import ConfidencePenalty, LabelSmoothing
from aeppt.recipes.distillation import DMP
from aeppt.recipes.dp_sgd import DPSGD
from aeppt.recipes.dropout import Dropout
from aeppt.recipes.early_stopping import EarlyStopping
from aeppt.recipes.hamp import HAMPTraining
from aeppt.recipes.mixup_mmd import MixupMMD
from aeppt.recipes.plain import Plain
from aeppt.recipes.relax_loss import RelaxLoss
from aeppt.recipes.selena import SELENA
from aeppt.recipes.stacking import ModelStacking
from aeppt.recipes.weight_decay import WeightDecay

__all__ = [
    "DMP",
    "DPSGD",
    "SELENA",
    "AdversarialRegularization",
    "ConfidencePenalty",
    "Dropout",
    "EarlyStopping",
    "HAMPTraining",
    "LabelSmoothing",
    "MixupMMD",
    "ModelStacking",
    "Plain",
    "Recipe",
    "RelaxLoss",
    "WeightDecay",
]
