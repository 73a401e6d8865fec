"""Where models generate: vLLM on Ray Data, and OpenAI-compatible endpoints."""
