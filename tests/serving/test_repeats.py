"""Asking again gains an attacker nothing: neither the same query nor, by rounding, the next to it."""
