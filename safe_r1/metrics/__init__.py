"""From rows to rates, intervals and tests: pure functions."""
