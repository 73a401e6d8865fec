"""Prepares the process of a served model before its engine starts."""

import asyncio

from ray.llm._internal.common.callbacks.base import CallbackBase

from safe_r1.inference.engine_process import prepare_engine


class PrepareEngine(CallbackBase):
    """A hook of Ray's in the deployment of a model."""

    async def on_before_node_init(self) -> None:
        """See ``prepare_engine``."""
        await asyncio.to_thread(prepare_engine)
