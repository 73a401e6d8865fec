"""What a generative AI service is filed by: the figures of the standard, coverage, verdicts, chances."""
