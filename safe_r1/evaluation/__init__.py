"""The evaluation job: samples, completions, verdicts, metrics, report."""
