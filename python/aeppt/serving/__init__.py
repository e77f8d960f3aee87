"""Serving protected predictions: a gateway before any model server."""
