"""Benchmarks against other projects; each is a module with a ``main`` (``make help`` lists them).

Ray reads its authentication settings when it is imported, so they are set here: all processes of a benchmark
share a token of their own, and no port of theirs takes commands from anybody else. Each starts a Ray of its
own beside one that runs on this machine.
"""

import os
import secrets

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_ADDRESS": "local",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
