"""Reads records of users' files: any place, format, compression and text encoding."""
