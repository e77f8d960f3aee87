"""Hugging Face classifiers of sequences and of images behind a defense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aeppt.defenses import OutputDefense
from aeppt.models.multi_label import check_two_classes, log_odds, protected_sigmoid
from aeppt.models.protected import ServedModel, log_keeping_labels, protected_soft_max

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ProtectedTransformer(ServedModel):
    """A ``PreTrainedModel`` for classification behind a defense; pipelines take it as a model.

    It is called as the model is, and returns the same kind of output with nothing in it but the
    logits: protected log-probabilities (log-odds for several labels at once). The loss, hidden
    states, attentions and caches would tell what the defense hides, and are left out.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its output has ``logits`` [n, k]. The configuration's ``problem_type`` says whether several
        labels may hold at once; a model of one label is taken so too, as pipelines do.
    defense : OutputDefense
        Fitted on the model's soft-max probabilities; for several labels at once, on
        :func:`aeppt.models.two_class_rows` of its sigmoid outputs.

    Raises
    ------
    ValueError
        The defense was fitted on another number of classes, or the model is a regression.
    sklearn.exceptions.NotFittedError
        The defense was not fitted.
    """

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel, defense: OutputDefense) -> None:
        super().__init__(model, defense)
        config = model.config
        if config.problem_type == "regression":
            raise ValueError("the model is a regression, which has no probabilities to protect")
        self.n_classes = int(config.num_labels or 0)
        self.is_multi_label = (
            config.problem_type == "multi_label_classification" or self.n_classes == 1
        )
        if self.is_multi_label:
            check_two_classes(defense)
        elif defense.n_features_in_ != self.n_classes:
            raise ValueError(
                f"the model has {self.n_classes} labels, but the defense was fitted on "
                f"{defense.n_features_in_} classes"
            )

    def forward(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """The model's kind of output, or a tuple, with protected logits [n, k] alone."""
        with torch.no_grad():
            output = self.model(*args, return_dict=True, **kwargs)
            if self.is_multi_label:
                protected = log_odds(protected_sigmoid(output.logits, self.defense))
            else:
                protected = log_keeping_labels(
                    protected_soft_max(output.logits, self.defense, self.n_classes)
                )
        return type(output)(logits=protected) if return_dict else (protected,)

    @property
    def config(self) -> Any:
        """The model's configuration, with the names of the labels."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in; the logits are float32 nevertheless."""
        return self.model.dtype

    @property
    def main_input_name(self) -> str:
        """The name of the first input, such as ``input_ids``."""
        return str(self.model.main_input_name)

    @property
    def input_modalities(self) -> Any:
        """What kinds of input the model takes, such as ``text``."""
        return self.model.input_modalities

    def can_generate(self) -> bool:
        """Whether it generates text; a classifier does not."""
        return False
