"""Data sets, their division into members and others, and files of predictions."""

from aeppt.data.digits import load_digits
from aeppt.data.location import load_location
from aeppt.data.records import Records, Split, join_records, split_records

__all__ = ["Records", "Split", "join_records", "load_digits", "load_location", "split_records"]
