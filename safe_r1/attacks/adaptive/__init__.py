"""Attacks that adapt (PAIR, TAP, Crescendo, best-of-N) as pure state machines; no engine is known here."""
