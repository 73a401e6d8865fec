"""HTTP service: OpenAI-compatible routes for the models, and batched safety evaluation with the judges of the
evaluation job.
"""
