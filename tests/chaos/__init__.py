"""Kills at random moments: ``python -m tests.chaos --minutes 60 --seed 1``."""
