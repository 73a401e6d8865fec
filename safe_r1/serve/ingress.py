"""The ingress: our own FastAPI routes in front of the models, since Serve's knows neither keys nor verdicts."""

import asyncio
import functools
import logging
from typing import Any

from safe_r1.models.registry import Variant
from safe_r1.serve import batches
from safe_r1.serve.access import ask_for
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.engine import ServedModel
from safe_r1.serve.judges import ModelJudge, ServedJudge
from safe_r1.serve.line import Line
from safe_r1.serve.metrics import RayMeter
from safe_r1.serve.service import Service

logger = logging.getLogger(__name__)


class Ingress:
    """One replica: routes over the handles of the other deployments."""

    def __init__(
        self,
        config: ServeConfig,
        served: list[Variant],
        judge: Variant | None,
        handles: dict[str, Any],
        rooms: dict[str, int],
        judge_handle: Any,
    ):
        for name in ("safe_r1.audit", "safe_r1.content"):
            logging.getLogger(name).setLevel(logging.INFO)
        every = {
            variant.name: ServedModel(variant, handles[variant.name], rooms[variant.name], config)
            for variant in [*served, *([judge] if judge else [])]
        }
        models = {variant.name: every[variant.name] for variant in served}
        if judge is None:
            caller: Any = ServedJudge(config.judge, judge_handle)
        else:
            caller = ModelJudge(config.judge, judge.name, Line(every[judge.name], config))
        start_batch = (
            functools.partial(batches.start, config.batches, get_app_name()) if config.batches else None
        )
        self.service = Service(config, models, caller, _missing, RayMeter(), start_batch)
        self._app: Any = None

    async def __serve_build_asgi_app__(self) -> Any:
        from safe_r1.serve.http import create_app

        self._app = create_app(self.service)
        if self.service.store and self.service.start_batch:
            # Batches that were cut short with the cluster go on; those that are running have their actor
            # already.
            for identity in await asyncio.to_thread(self.service.store.unfinished):
                try:
                    await asyncio.to_thread(self.service.start_batch, identity)
                except Exception:  # one batch that nobody can run shall not stop the service
                    logger.exception("%s: cannot be taken up", identity)
        return self._app

    async def drain(self, timeout_s: float) -> bool:
        """See ``Drain.close``."""
        return await self.service.drain.close(timeout_s)

    async def ask(self, path: str, body: dict[str, Any], owner: str) -> tuple[int, Any]:
        """A row of a batch through the same routes as any request; gives status and JSON."""
        return await ask_for(owner, self._app, path, body)


def get_app_name() -> str:
    """The Serve application that this replica belongs to."""
    from ray.serve import get_replica_context

    return get_replica_context().app_name


async def _missing() -> list[str]:
    """Deployments of this application that are not healthy; a model that is scaled to zero is."""
    from ray import serve

    status = await asyncio.to_thread(serve.status)
    app = status.applications[get_app_name()]
    return [f"{name}: {each.status}" for name, each in app.deployments.items() if each.status not in _UP]


_UP = ("HEALTHY", "UPSCALING", "DOWNSCALING")
