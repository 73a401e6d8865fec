"""One untrusted program, contained."""
