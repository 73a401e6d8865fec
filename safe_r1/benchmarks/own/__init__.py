"""A user's own questions as a benchmark: one file, URI or dataset of the hub, without code."""
