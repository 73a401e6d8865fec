"""Status of a campaign: a snapshot in its folder, a table for the terminal, a page for a browser."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup
from pydantic import BaseModel
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from upath import UPath

from safe_r1.campaign.endpoint_use import EndpointUse, total
from safe_r1.campaign.graph import COMPARISON, Step
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.campaign.results import read_results
from safe_r1.campaign.state import ENDED, SNAPSHOT, Status, StepState
from safe_r1.errors import StorageError
from safe_r1.progress import Progress
from safe_r1.runs import RunFolder, as_path

PAGE = "campaign.html"
FOLDER = "campaign"
_CHINESE: dict[Status, str] = {
    "waiting": "等待",
    "starting": "启动中",
    "running": "运行中",
    "done": "完成",
    "failed": "失败",
    "skipped": "跳过",
}
# Of rich, for the terminal; the page has its own style sheet.
_STYLES: dict[Status, str] = {
    "waiting": "dim",
    "starting": "yellow",
    "running": "cyan",
    "done": "green",
    "failed": "bold red",
    "skipped": "red",
}


class Cell(BaseModel):
    """One step as it is shown: a cell of the table of variants by stages."""

    name: str
    stage: str
    variant: str
    status: Status
    progress: str
    reason: str
    attempts: int
    gpus: int
    planned_hours: float
    hours: float
    usd_per_gpu_hour: float
    planned_endpoint: EndpointUse | None = None
    endpoint: EndpointUse | None = None

    @property
    def text(self) -> str:
        """Text in the table: the status, and while it runs its stage and share done."""
        # A snapshot keeps the line itself, as one of another version may have units that this one lacks.
        progress = Progress.parse(self.progress)
        if self.status == "running" and progress:
            return f"{progress.stage} {progress.percent} %"
        return {"starting": "starting nodes"}.get(self.status, self.status)


class Cost(NamedTuple):
    """GPU-hours and US dollars of some steps, as planned and as held until now."""

    name: str
    planned_hours: float
    held_hours: float
    planned_usd: float
    held_usd: float


class Snapshot(BaseModel):
    """A campaign at one moment."""

    recipe: str
    updated_at: float
    cells: list[Cell]

    @property
    def is_over(self) -> bool:
        """All steps have ended."""
        return all(cell.status in ENDED for cell in self.cells)

    @property
    def missing(self) -> list[Cell]:
        """Steps that failed or were skipped."""
        return [cell for cell in self.cells if cell.status in ("failed", "skipped")]

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the recipe's order."""
        return list(dict.fromkeys(cell.stage for cell in self.cells))

    @property
    def variants(self) -> list[str]:
        """Names of the variants, in the recipe's order; steps that run once have the empty name."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def cell(self, variant: str, stage: str) -> Cell | None:
        """The step of a variant and stage; None where there is no such step."""
        return next((cell for cell in self.cells if (cell.variant, cell.stage) == (variant, stage)), None)

    @property
    def endpoints(self) -> str:
        """What the endpoints have taken, and what was planned; empty where there are none."""
        planned = [cell.planned_endpoint for cell in self.cells if cell.planned_endpoint]
        taken = [cell.endpoint for cell in self.cells if cell.endpoint]
        return f"{total(taken)}; planned {total(planned)}" if planned else ""

    def costs(self, by: Literal["stage", "variant"]) -> list[Cost]:
        """For each stage or variant that takes GPUs, and in total."""
        # Steps that take no GPU, such as the corpus, would be rows of zeros.
        names = self.stages if by == "stage" else self.variants
        costs = [
            _cost(name or "—", [cell for cell in self.cells if getattr(cell, by) == name]) for name in names
        ]
        return [cost for cost in costs if cost.planned_hours or cost.held_hours] + [
            _cost("total", self.cells)
        ]


def _cost(name: str, cells: Sequence[Cell]) -> Cost:
    return Cost(
        name=name,
        planned_hours=sum(cell.gpus * cell.planned_hours for cell in cells),
        held_hours=sum(cell.gpus * cell.hours for cell in cells),
        planned_usd=sum(cell.gpus * cell.planned_hours * cell.usd_per_gpu_hour for cell in cells),
        held_usd=sum(cell.gpus * cell.hours * cell.usd_per_gpu_hour for cell in cells),
    )


def take_snapshot(
    recipe: CampaignRecipe,
    steps: Mapping[str, Step],
    states: Mapping[str, StepState],
    endpoint_uses: Mapping[str, EndpointUse] | None = None,
) -> Snapshot:
    """The campaign as it stands."""
    uses = endpoint_uses or {}
    now = time.time()
    return Snapshot(
        recipe=recipe.name,
        updated_at=now,
        cells=[
            Cell(
                name=name,
                stage=step.stage,
                variant=name.partition("/")[2],
                status=states[name].status,
                progress=states[name].progress,
                reason=states[name].reason,
                attempts=len(states[name].attempts),
                gpus=step.estimate.gpus,
                planned_hours=step.estimate.hours,
                hours=states[name].hours(now),
                usd_per_gpu_hour=recipe.groups[step.group].usd_per_gpu_hour,
                planned_endpoint=step.estimate.endpoint,
                endpoint=uses.get(name),
            )
            for name, step in steps.items()
        ],
    )


def write_snapshot(output: str, snapshot: Snapshot) -> None:
    """Write ``status.json`` and the page, which begins with the comparison's rates once there is one."""
    # Imported late: the status command reads snapshots without a template engine.
    from safe_r1.report.html import asset, content_policy, html_environment
    from safe_r1.report.markdown import percent

    folder = campaign_folder(output)
    style = asset("report.css") + asset("campaign.css")
    folder.write_json(SNAPSHOT, snapshot.model_dump())
    page = (
        html_environment()
        .get_template("campaign.html.jinja")
        .render(
            s=snapshot,
            zh=_CHINESE,
            style=Markup(style),
            policy=content_policy("", style),
            updated=_format_time(snapshot.updated_at),
            results=read_results(UPath(output) / COMPARISON, UPath(output) / "runs" / "main"),
            comparison=COMPARISON,
            percent=percent,
        )
    )
    folder.write_text(PAGE, page)


def read_snapshot(output: str) -> Snapshot:
    """The last snapshot of a campaign.

    Raises:
        StorageError: There is none, or it is damaged.
    """
    found = campaign_folder(output).read_json(SNAPSHOT)
    if found is None:
        raise StorageError(f"no campaign in {output}: expected {FOLDER}/{SNAPSHOT} in it")
    try:
        return Snapshot.model_validate(found)
    except ValueError:
        raise StorageError(
            f"{output}: {FOLDER}/{SNAPSHOT} is not as a campaign writes it; "
            "the campaign's command writes it again"
        ) from None


def campaign_folder(output: str) -> RunFolder:
    """The folder of a campaign's states, snapshot and page."""
    return RunFolder(as_path(output) / FOLDER)


def to_table(snapshot: Snapshot) -> Group:
    """A table of variants by stages, then the totals, then the steps without a result and why."""
    table = Table(
        title=f"{snapshot.recipe}, {_format_time(snapshot.updated_at)}", title_justify="left", pad_edge=False
    )
    for title in ("variant", *snapshot.stages):
        table.add_column(title, overflow="fold")
    for variant in snapshot.variants:
        cells = (snapshot.cell(variant, stage) for stage in snapshot.stages)
        table.add_row(variant or "—", *(_styled(cell) for cell in cells))
    # Reasons hold what a job printed: escaped, so that square brackets in them are no markup.
    lines = [
        Text.from_markup(f"[red]{cell.status}[/] {escape(cell.name)}: {escape(cell.reason)}")
        for cell in snapshot.missing
    ]
    cost = snapshot.costs("stage")[-1]
    counts = Counter(cell.status for cell in snapshot.cells)
    totals = ", ".join(f"{number} {status}" for status, number in counts.items())
    hours = f"{cost.held_hours:,.1f} of {cost.planned_hours:,.1f} planned GPU-hours"
    endpoints = [Text(snapshot.endpoints)] if snapshot.endpoints else []
    return Group(table, Text(f"{totals}; {hours}"), *endpoints, *lines)


def _styled(cell: Cell | None) -> Text:
    return Text("") if cell is None else Text(cell.text, style=_STYLES[cell.status])


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
