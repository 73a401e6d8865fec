"""Holds finished runs against a policy, for a pipeline that must not let a worse model through."""
