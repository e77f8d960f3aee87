"""The audit: attacks with and without a defense, with intervals, and the report of it."""

from aeppt.evaluation.canaries import audit_canaries, mislabel, most_vulnerable
from aeppt.evaluation.epsilon import epsilon_lower_bound, one_run_epsilon
from aeppt.evaluation.harness import audit
from aeppt.evaluation.results import (
    AttackOutcome,
    AuditReport,
    CanaryAudit,
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
    "Estimate",
    "TradeOff",
    "Utility",
    "audit",
    "audit_canaries",
    "epsilon_lower_bound",
    "measure_utility",
    "mislabel",
    "most_vulnerable",
    "one_run_epsilon",
    "over_seeds",
    "with_latency",
]
