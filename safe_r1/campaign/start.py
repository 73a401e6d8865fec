"""From a recipe to a running campaign: the cluster's Jobs server, the code that its jobs run, the folder they
share.
"""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from safe_r1.benchmarks import require_files
from safe_r1.campaign.graph import Step, commands
from safe_r1.campaign.jobs import RayJobs
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.schedule import Order
from safe_r1.campaign.view import campaign_folder
from safe_r1.errors import ConfigError, ResourceError
from safe_r1.resources import init_ray, is_jobs_server, locate_ray

# Logical CPUs of a local Ray: the stages of one job ask for eight at the same time.
_LOCAL_CPUS = 16
# A local Ray's agent, which starts the jobs, listens here and nowhere else. After a kill the port is free
# again within some seconds.
_AGENT_PORT = 52365
_PORT_TIMEOUT_S = 60.0
_INFO_FILE = "campaign.json"


@dataclass(frozen=True)
class JobsServer:
    """Where jobs are submitted, and how they run.

    Attributes:
        url: Of the dashboard.
        working_dir: Folder or URI with the code; None: it is installed on the nodes.
        python: The interpreter of the jobs.
        ray_address: Of the cluster's head, as its jobs reach it; None where only the dashboard is known.
    """

    url: str
    working_dir: str | None
    python: str
    ray_address: str | None = None


def shared_path(output: str) -> str:
    """The output as every job will read it.

    Raises:
        ConfigError: A URI: fine-tuned models have to be loaded from a file system.
    """
    if "://" in output:
        raise ConfigError(
            f"--output {output}: fine-tuned models are loaded from a folder; give one that all nodes share"
        )
    return str(Path(output).absolute())


def open_campaign(
    recipe: CampaignRecipe, steps: Mapping[str, Step], output: str, order: Order = "largest"
) -> Campaign:
    """Connect, refuse a folder or cluster that does not fit, and read the state of earlier sessions.

    Raises:
        ConfigError: A secret is missing, or two models have one name.
        ResourceError: No cluster, or one with another version of Ray.
        DataError: A file of own questions is missing.
        RunConflictError: The folder holds a campaign with other commands.
    """
    if missing := [name for name in recipe.secrets if not os.environ.get(name)]:
        raise ConfigError(
            f"secret {', '.join(missing)} is not set: recipe {recipe.name} needs it in the environment of "
            "the campaign and of the nodes (a Kubernetes Secret), never in a file of the project"
        )
    require_questions(recipe, output)
    folder = campaign_folder(output)
    server = _find_server()
    driver_labels = recipe.groups["cpu"].labels if "cpu" in recipe.groups else {}
    jobs = RayJobs(server.url, server.working_dir, server.python, driver_labels, server.ray_address)
    folder.open(commands(recipe, output), {"recipe": recipe.model_dump()}, name=_INFO_FILE)
    return Campaign(recipe, steps, folder, jobs, order)


def require_questions(recipe: CampaignRecipe, output: str) -> None:
    """Check that the files of own questions are there, unless the campaign was started before.

    Raises:
        DataError: One is missing.
    """
    # Later the files may be gone: finished runs do not need them.
    if campaign_folder(output).read_json(_INFO_FILE) is None:
        require_files(name for stage in recipe.stages.values() for name in stage.benchmarks)


def _find_server() -> JobsServer:
    """The Jobs server of ``RAY_ADDRESS``, of the Ray that is running, or of a local one.

    Raises:
        ResourceError: No Ray can be joined or started, or it has no Jobs server.
    """
    location = locate_ray()
    if location.address and is_jobs_server(location.address):
        # A remote cluster's interpreter has its own path.
        return JobsServer(location.address, _code(), "python")
    if location.address is None:
        wait_for_port(_AGENT_PORT, _PORT_TIMEOUT_S)
    context = init_ray(log_to_driver=False, num_cpus=_LOCAL_CPUS, include_dashboard=True)
    import ray

    runtime = ray.get_runtime_context()
    if not context.dashboard_url:
        raise ResourceError(
            f"the Ray at {runtime.gcs_address} has no dashboard, which takes a campaign's jobs: start it "
            "with `ray start --head --include-dashboard=true`, or set RAY_ADDRESS=local and the campaign "
            "starts a Ray of its own"
        )
    return JobsServer(
        url=f"http://{context.dashboard_url}",
        # Under `ray job submit` the code was uploaded already.
        working_dir=runtime.runtime_env.get("working_dir") or _code(),
        python=sys.executable,  # the cluster's nodes are like this one
        ray_address=runtime.gcs_address,
    )


def wait_for_port(port: int, timeout_s: float) -> None:
    """Wait until a port is free: without its agent, a Ray that starts now would never start a job.

    Raises:
        ResourceError: It is still in use after the timeout.
    """
    retrying = Retrying(
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(0.5),
        retry=retry_if_exception_type(OSError),
        reraise=True,
    )
    try:
        retrying(_bind, port)
    except OSError:
        raise ResourceError(
            f"another Ray runs on this machine (its agent has port {port}): stop it, or run the campaign on "
            "it with RAY_ADDRESS=http://127.0.0.1:8265, the address of its dashboard"
        ) from None


def _bind(port: int) -> None:
    with socket.socket() as probe:
        # Connections that linger after a kill do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))


def _code() -> str | None:
    """The repository around this package; None where it is installed like any other."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "pyproject.toml").is_file() else None
