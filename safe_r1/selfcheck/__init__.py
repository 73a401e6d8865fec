"""Imports all that a role's jobs import, so that an image that lacks something fails while it is built."""
