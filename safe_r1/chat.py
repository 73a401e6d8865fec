"""The stable import path of ``split_reasoning``; the code lives in ``safe_r1.models.reasoning``."""

from safe_r1.models.reasoning import split_reasoning

__all__ = ["split_reasoning"]
