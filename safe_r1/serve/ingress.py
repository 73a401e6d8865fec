"""The ingress deployment: our own FastAPI app in front of the models.

Ray Serve's own app for language models has neither API keys nor verdicts.
"""

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from safe_r1.judge.factory import JudgePlan
from safe_r1.models.variant import Variant
from safe_r1.serve import batches
from safe_r1.serve.access import post_as
from safe_r1.serve.base import JudgeClient, Model
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.deltas import DeltaReceiver
from safe_r1.serve.deployment import DeploymentSpec
from safe_r1.serve.engine import ServedModel
from safe_r1.serve.judges import DeploymentJudge, QueueJudge
from safe_r1.serve.metrics import read_exposition
from safe_r1.serve.remote import RemoteModel
from safe_r1.serve.request_queue import RequestQueue
from safe_r1.serve.service import Service
from safe_r1.serve.telemetry import RayTelemetry

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)
_UP = ("HEALTHY", "UPSCALING", "DOWNSCALING")


class Ingress:
    """One replica: the routes over the handles of the other deployments."""

    def __init__(
        self,
        config: ServeConfig,
        served: Sequence[str],
        judges: Mapping[str, JudgePlan],
        specs: Sequence[DeploymentSpec],
        handles: "dict[str, DeploymentHandle]",
        judge_handles: "dict[str, DeploymentHandle]",
        remote: Sequence[Variant] = (),
    ):
        """Connect to the other deployments.

        Args:
            config: Settings of the service.
            served: Names of the models that requests can use.
            judges: The judges by name, the service's own first; their models, if they have any, need not be
                among ``served``.
            specs: All models.
            handles: Their deployments by name.
            judge_handles: Deployments of the judges that have no model in ``handles``.
            remote: Models behind other URLs.
        """
        # Serve leaves the root logger of a replica at WARNING.
        for name in ("safe_r1.audit", "safe_r1.content"):
            logging.getLogger(name).setLevel(logging.INFO)
        receiver = DeltaReceiver(_node_address())
        clients = {
            spec.variant.name: ServedModel(
                spec, handles[spec.variant.name], config.generation, receiver, config.tool_parser
            )
            for spec in specs
        }
        # Judges with one model share its queue.
        judging = {plan.model.name for plan in judges.values() if plan.model}
        queues = {name: RequestQueue(clients[name], config) for name in judging}

        def make_client(name: str, plan: JudgePlan) -> JudgeClient:
            if plan.model is not None:
                return QueueJudge(plan, queues[plan.model.name])
            return DeploymentJudge(plan, judge_handles[name])

        judge_client, *_ = found = [make_client(*each) for each in judges.items()]
        further = dict(zip(list(judges)[1:], found[1:], strict=True))
        start_batch = None
        if config.batches:
            start_batch = functools.partial(batches.start, config.batches, _app_name())
        behind_urls = {variant.name: RemoteModel(variant, config.generation) for variant in remote}
        models: dict[str, Model] = {name: behind_urls.get(name) or clients[name] for name in served}
        self.service = Service(
            config, models, judge_client, _find_missing, RayTelemetry(), start_batch, further, read_exposition
        )
        self._app: ASGIApp | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        from safe_r1.serve.routes import create_app

        self._app = create_app(self.service)
        if self.service.store and self.service.start_batch:
            # Resumes batches that ended with an earlier cluster; no-op for one that is still running.
            for batch_id in await asyncio.to_thread(self.service.store.unfinished):
                try:
                    await asyncio.to_thread(self.service.start_batch, batch_id)
                except Exception:  # one broken batch must not keep the service from starting
                    logger.exception("%s: cannot be resumed", batch_id)
        return self._app

    async def drain(self, timeout_s: float) -> bool:
        """See ``Drain.close``."""
        return await self.service.drain.close(timeout_s)

    async def post(self, path: str, body: dict[str, object], owner: str) -> tuple[int, object]:
        """Send a row of a batch through the same routes as any request; returns status and decoded JSON."""
        assert self._app is not None, "Serve builds the app before it sends any request"
        return await post_as(owner, self._app, path, body)


def _node_address() -> str:
    """Address of this node, at which the replicas on all nodes reach it."""
    from ray.util import get_node_ip_address

    return get_node_ip_address()


def _app_name() -> str:
    """Name of the Serve application that this replica belongs to."""
    from ray.serve import get_replica_context

    return get_replica_context().app_name


async def _find_missing() -> list[str]:
    """Deployments of this application that are not healthy; a model that is scaled to zero is healthy."""
    from ray import serve

    status = await asyncio.to_thread(serve.status)
    deployments = status.applications[_app_name()].deployments
    return [f"{name}: {each.status}" for name, each in deployments.items() if each.status not in _UP]
