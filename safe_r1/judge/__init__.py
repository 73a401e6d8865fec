"""Judges of refusal and over-refusal: one interface (``base``), one registry (``factory``)."""

from safe_r1.judge.verdict import parse_verdict

__all__ = ["parse_verdict"]
