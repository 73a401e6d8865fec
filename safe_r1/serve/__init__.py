"""The models and the judge behind HTTP: OpenAI's routes, and a batched safety evaluation with the evaluation
job's own code.
"""
