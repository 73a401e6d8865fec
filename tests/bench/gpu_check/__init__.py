"""``make gpu-check``: what a machine with a GPU should be known to do before a job is paid for on it.

Each part is a module with a ``measure`` and runs as a process of its own. A part imports what it measures and
nothing else: training needs torch, transformers and torchao alone.
"""
