"""Compares finished runs of several variants: differences, their tests, and the report."""
