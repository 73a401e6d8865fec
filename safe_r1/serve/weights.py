"""Fetches a served model's weights, where they are at a URI or on ModelScope, before its engine starts."""

import asyncio

from ray.llm._internal.common.callbacks.base import CallbackBase

from safe_r1.inference.weights import fetch_weights


class FetchWeights(CallbackBase):
    """A hook of Ray's in the deployment of a model."""

    async def on_before_node_init(self) -> None:
        """Fetches the weights to the nodes of the engine."""
        await asyncio.to_thread(fetch_weights)
