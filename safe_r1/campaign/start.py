"""From a recipe to a running campaign: the cluster's Jobs server, the code that its jobs run, the folder they
share.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from safe_r1.campaign.graph import Step, commands
from safe_r1.campaign.jobs import RayJobs
from safe_r1.campaign.recipe import Recipe
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.schedule import Order
from safe_r1.campaign.view import campaign_folder
from safe_r1.errors import ConfigError, ResourceError
from safe_r1.resources import init_ray

# Logical CPUs of a local Ray: the stages of one job ask for eight at the same time.
_LOCAL_CPUS = 16
# A local Ray's agent, which starts the jobs, listens here and nowhere else. One that was killed leaves it
# after some seconds.
_AGENT_PORT, _PORT_WAIT_S = 52365, 60.0


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
    recipe: Recipe, steps: Mapping[str, Step], output: str, order: Order = "largest"
) -> Campaign:
    """Connect, refuse what the folder or the cluster does not fit, and read what was done before.

    Raises:
        ConfigError: A secret is missing, or two models have one name.
        ResourceError: No cluster, or one with another version of Ray.
        RunConflictError: The folder holds a campaign with other commands.
    """
    if missing := [name for name in recipe.secrets if not os.environ.get(name)]:
        raise ConfigError(
            f"secret {', '.join(missing)} is not set: recipe {recipe.name} needs it in the environment of "
            "the campaign and of the nodes (a Kubernetes Secret), never in a file of the project"
        )
    address, working_dir, python = _server()
    driver_labels = recipe.groups["cpu"].labels if "cpu" in recipe.groups else {}
    jobs = RayJobs(address, working_dir, python, driver_labels)
    folder = campaign_folder(output)
    folder.open(commands(recipe, output), {"recipe": recipe.model_dump()}, name="campaign.json")
    return Campaign(recipe, steps, folder, jobs, order)


def _server() -> tuple[str, str | None, str]:
    """Address of the Jobs server, where its jobs' code is, and the interpreter that runs them."""
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith("http"):
        return address, _code(), "python"
    if not address:
        wait_for_port(_AGENT_PORT, _PORT_WAIT_S)
    context = init_ray(log_to_driver=False, num_cpus=_LOCAL_CPUS, include_dashboard=True)
    import ray

    inherited = ray.get_runtime_context().runtime_env.get("working_dir")
    return (
        f"http://{context.dashboard_url}",
        inherited or _code(),
        sys.executable,
    )  # the cluster's nodes are like this one


def wait_for_port(port: int, timeout_s: float) -> None:
    """Until nobody listens there: without its agent, a Ray that starts now would take no job, ever.

    Raises:
        ResourceError: Somebody still does.
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
            f"another Ray runs on this machine (its agent has port {port}): stop it, or run the campaign on it "
            "with RAY_ADDRESS=http://127.0.0.1:8265, the address of its dashboard"
        ) from None


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))


def _code() -> str | None:
    """The repository around this package; None where it is installed like any other."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "pyproject.toml").is_file() else None
