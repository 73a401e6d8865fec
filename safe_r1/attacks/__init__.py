"""From a question to the ways in which attackers ask it: ``registry``, ``choose`` and ``apply``."""
