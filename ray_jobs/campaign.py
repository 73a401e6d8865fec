"""Run a whole campaign, one Ray job for each stage and variant: `python ray_jobs/campaign.py --help`.

Under `ray job submit` its jobs run on the same cluster; beside a running Ray, on that one; otherwise a local
Ray is started for them. After a kill, the same command resumes, with the jobs that are still running.
"""

import contextlib
import time
from typing import Annotated

import typer
from rich.console import Console as RichConsole
from rich.live import Live

from ray_jobs.common import Console, job, join_ray
from ray_jobs.supervise import supervise
from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.plan_text import to_text
from safe_r1.campaign.recipe import load_recipe
from safe_r1.campaign.start import open_campaign, require_questions, shared_path
from safe_r1.campaign.view import Snapshot, take_snapshot, to_table, write_snapshot
from safe_r1.errors import CampaignError

_TICK_S = 5.0


def main(
    recipe: Annotated[
        str, typer.Option(help="Name of a recipe in the package (paper, demo), or a TOML file.")
    ],
    output: Annotated[
        str, typer.Option(help="Folder for results and state, on a file system that all nodes share.")
    ] = "campaign",
    only: Annotated[
        list[str] | None, typer.Option(help="Run the jobs of this variant only; may be repeated.")
    ] = None,
    budget_gpu_hours: Annotated[
        float | None,
        typer.Option(help="Maximum GPU-hours: a plan that takes more is refused, and so is a later job."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show jobs, GPUs, hours, cost and nodes without running anything."),
    ] = False,
) -> None:
    """Evaluate, fine-tune, evaluate again and compare many variants in parallel."""
    with job("campaign") as console:
        chosen = load_recipe(recipe, budget_gpu_hours)
        place = shared_path(output)
        require_questions(chosen, place)
        steps = make_steps(chosen, place, only or ())
        if dry_run:
            console.show(to_text(chosen, steps))
            return
        join_ray(console)
        campaign = open_campaign(chosen, steps, place)
        console.show(f"campaign: {chosen.name}, {len(steps)} jobs → {place}; log: {console.log}")
        with contextlib.closing(_Screen(console)) as screen:
            while True:
                campaign.tick()
                snapshot = take_snapshot(chosen, steps, campaign.states, campaign.endpoint_uses)
                # Each time and not at the end, so that `safe-r1 status` sees a campaign that was killed.
                write_snapshot(place, snapshot)
                screen.show(snapshot)
                if campaign.is_over:
                    break
                time.sleep(_TICK_S)
        if snapshot.endpoints:
            console.show(f"campaign: {snapshot.endpoints}")
        console.show(f"campaign: page {place}/campaign/campaign.html")
        if snapshot.missing:
            raise CampaignError(
                f"{len(snapshot.missing)} of {len(steps)} steps have no result; the same command tries them "
                "again"
            )


class _Screen:
    """A live table on a terminal; elsewhere a line for each change of a step."""

    def __init__(self, console: Console):
        self._console = console
        self._shown: dict[str, str] = {}
        self._live = Live(console=RichConsole(file=console.out)) if console.out.isatty() else None
        if self._live:
            self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """The campaign as it stands."""
        if self._live:
            self._live.update(to_table(snapshot), refresh=True)
            return
        for cell in snapshot.cells:
            if cell.status == "waiting" and not cell.reason:
                continue
            line = f"{cell.name}: {cell.status}{f', {cell.reason}' if cell.reason else ''}"
            # A log with a line for each look, every few seconds for hours, could not be read.
            if self._shown.get(cell.name) != line:
                self._console.show(f"campaign: {line}")
            self._shown[cell.name] = line

    def close(self) -> None:
        """Leave the last table on the terminal."""
        if self._live:
            self._live.stop()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    supervise(app)
