"""Serve models and a judge over HTTP: `python ray_jobs/serve.py --help`.

Joins the cluster of RAY_ADDRESS, or starts a local Ray, and stays until it is interrupted; then it drains and
ends.
"""

import contextlib
import signal
import time
from typing import Annotated

import typer

from ray_jobs.common import job
from safe_r1.config import load_config


def main(
    variant: Annotated[
        list[str] | None, typer.Option(help="A model to be asked; may be repeated. None: judging alone.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="lexicon, llm, or the URL of an OpenAI-compatible endpoint.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; others than loopback need --api-keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    api_keys: Annotated[str | None, typer.Option(help="TOML file of keys.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. scaling.max_replicas=4.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file of settings.")] = None,
) -> None:
    """Serve models with a batched safety evaluation endpoint."""
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
        from safe_r1.resources import connect
        from safe_r1.serve.app import check_config, run, stop

        check_config(settings)
        models = ", ".join(settings.variants) or "no model"
        console.show(f"serve: {models}, judge {settings.judge.kind}; starting (log: {console.log})")
        ingress = run(settings, connect())
        console.show(
            f"serve: ready on http://{settings.host}:{settings.port} (page at /, schema at /docs); Ctrl-C ends it"
        )
        # `ray job stop` sends SIGTERM; a shell's background job is started with SIGINT ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        console.show("serve: draining; requests that are being answered are waited for")
        stop(ingress)
        console.show("serve: ended")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
