"""Metrics of the whole service in Prometheus' text form, gathered from the agents of Ray's nodes."""

import asyncio
import logging
from collections.abc import Iterable

import httpx

logger = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIXES = ("ray_safe_r1_", "ray_serve_", "ray_vllm_")
_TIMEOUT_S = 5.0


async def read_exposition() -> bytes:
    """The service's own metrics, Serve's and vLLM's, of all nodes; one that does not answer is left out."""
    import ray

    nodes = await asyncio.to_thread(ray.nodes)
    urls = [
        f"http://{_host(node['NodeManagerAddress'])}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]
    # Nodes are reached directly, whatever proxy the environment names.
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
        texts = await asyncio.gather(*(_fetch(client, url) for url in urls))
    num_missing = sum(text is None for text in texts)
    own = (
        "# HELP ray_safe_r1_metrics_nodes_missing Nodes whose metrics could not be read\n"
        "# TYPE ray_safe_r1_metrics_nodes_missing gauge\n"
        f"ray_safe_r1_metrics_nodes_missing {num_missing}\n"
    )
    return merge_expositions([*filter(None, texts), own]).encode()


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def _fetch(client: httpx.AsyncClient, url: str) -> str | None:
    try:
        response = await client.get(url)
        response.raise_for_status()
    except httpx.HTTPError as error:
        logger.warning("metrics of %s: %s", url, type(error).__name__)
        return None
    return response.text


def merge_expositions(texts: Iterable[str]) -> str:
    """Several expositions as one: each metric's samples together, its help and type once.

    Metrics of Ray itself are left out; Prometheus reads them at the nodes.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        # Not splitlines(): a label may hold other line separators.
        for line in text.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                kind, name = line.split(" ", 3)[1:3]
                if name.startswith(_PREFIXES):
                    heads.setdefault(name, {}).setdefault(kind, line)
            elif line and not line.startswith("#") and name.startswith(_PREFIXES):
                samples.setdefault(name, []).append(line)
    lines = [line for name, found in sorted(samples.items()) for line in [*heads[name].values(), *found]]
    return "".join(f"{line}\n" for line in lines)
