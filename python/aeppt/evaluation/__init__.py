"""The audit of a defense and the comparison of many: attacks, intervals, costs, reports."""

from aeppt.evaluation.canaries import audit_canaries, mislabel, most_vulnerable
from aeppt.evaluation.certificate import certify
from aeppt.evaluation.comparison import Comparison, compare, undominated
from aeppt.evaluation.epsilon import epsilon_lower_bound, one_run_epsilon
from aeppt.evaluation.experiment import (
    Experiment,
    Sizes,
    given_experiment,
    run_experiment,
    training_by,
)
from aeppt.evaluation.harness import audit
from aeppt.evaluation.results import (
    AttackOutcome,
    AuditReport,
    CanaryAudit,
    Certificate,
    Estimate,
    TradeOff,
    Utility,
    over_seeds,
)
from aeppt.evaluation.utility import measure_utility, with_latency

__all__ = [
    "AttackOutcome",
    "AuditReport",
    "CanaryAudit",
    "Certificate",
    "Comparison",
    "Estimate",
    "Experiment",
    "Sizes",
    "TradeOff",
    "Utility",
    "audit",
    "audit_canaries",
    "certify",
    "compare",
    "epsilon_lower_bound",
    "given_experiment",
    "measure_utility",
    "mislabel",
    "most_vulnerable",
    "one_run_epsilon",
    "over_seeds",
    "run_experiment",
    "training_by",
    "undominated",
    "with_latency",
]
