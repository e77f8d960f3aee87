"""The audit: attacks with and without a defense, with intervals, and the report of it."""

from aeppt.evaluation.harness import audit
from aeppt.evaluation.results import AttackOutcome, AuditReport, Estimate, Utility

__all__ = ["AttackOutcome", "AuditReport", "Estimate", "Utility", "audit"]
