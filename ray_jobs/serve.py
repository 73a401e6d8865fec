"""Serve models and a judge over HTTP: `python ray_jobs/serve.py --help`.

Joins the Ray cluster that is running, or starts a local one, and serves until it is interrupted. It then
rejects new requests, finishes those in progress, and exits.
"""

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.settings import hide_credentials, load_config

if TYPE_CHECKING:
    from safe_r1.serve.config import ServeConfig


def main(
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to serve: a name of `safe-r1 models`, a hub id, a folder, a URI, or "
            "endpoint:URL#MODEL; may be repeated. None: judge only."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="lexicon, llm, a guard (qwen3guard, llamaguard, wildguard, shieldgemma), "
            "[GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, or the name of an installed judge."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; any other than loopback needs --api-keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    api_keys: Annotated[str | None, typer.Option(help="TOML file of API keys.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override any setting, e.g. scaling.max_replicas=4.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file with settings.")] = None,
) -> None:
    """Serve models and a judge over HTTP: OpenAI's API, and batched safety evaluation."""
    with job("serve") as console:
        from safe_r1.serve.config import ServeConfig

        settings = load_config(
            ServeConfig,
            config,
            set_ or [],
            variants=variant or None,
            judge__kind=judge,
            host=host,
            port=port,
            api_keys=api_keys,
        )
        _serve(console, settings)


def _serve(console: Console, settings: "ServeConfig") -> None:
    """Serve until interrupted."""
    from safe_r1.inference.startup import show_startup
    from safe_r1.resources import connect
    from safe_r1.serve.app import check_config, run, stop
    from safe_r1.serve.proxy import ENVIRONMENT as PROXY_ENVIRONMENT

    check_config(settings)
    # For a Ray that starts here; who sets a variable decides.
    for name, value in PROXY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    models = hide_credentials(", ".join(settings.variants)) or "no model"
    join_ray(console)
    judge = hide_credentials(settings.judge.kind)
    console.show(f"serve: {models}, judge {judge}; starting (log: {console.log})")
    with show_startup(console.show):
        ingress = run(settings, connect())
    url = f"http://{settings.host}:{settings.port}"
    # A shell starts background jobs with SIGINT ignored. SIGTERM, as of `ray job stop`, is taken as one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        # Printed inside the block, since a script may send the signal as soon as it reads this line.
        console.show(f"serve: ready on {url} (page at /, API schema at /docs); stop it with Ctrl-C")
        while True:
            time.sleep(3600)
    console.show("serve: shutting down; finishing requests in progress")
    stop(ingress, settings.drain_timeout_s)
    console.show("serve: stopped")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
