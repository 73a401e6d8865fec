"""How far a campaign is: a snapshot in its folder, a table for the terminal, a page for a browser."""

import time
from collections import Counter
from collections.abc import Mapping

from markupsafe import Markup
from pydantic import BaseModel
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from upath import UPath

from safe_r1.campaign.graph import COMPARISON, Step
from safe_r1.campaign.recipe import Recipe
from safe_r1.campaign.results import read_results
from safe_r1.campaign.state import ENDED, SNAPSHOT, Status, StepState
from safe_r1.errors import StorageError
from safe_r1.progress import Progress
from safe_r1.runs import RunFolder

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
_STYLES: dict[Status, str] = {
    "waiting": "dim",
    "starting": "yellow",
    "running": "cyan",
    "done": "green",
    "failed": "bold red",
    "skipped": "red",
}


class Cell(BaseModel):
    """One step, as it is shown."""

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

    @property
    def text(self) -> str:
        """A few words for a table."""
        progress = Progress.parse(self.progress)
        if self.status == "running" and progress:
            return f"{progress.stage} {progress.percent} %"
        return {"starting": "starting nodes"}.get(self.status, self.status)


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
        """Steps without a result, whatever the reason."""
        return [cell for cell in self.cells if cell.status in ("failed", "skipped")]

    @property
    def stages(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(cell.stage for cell in self.cells))

    @property
    def variants(self) -> list[str]:
        """In their order; steps of no variant stand in the row of an empty name."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def cell(self, variant: str, stage: str) -> Cell | None:
        """Of one place in the table."""
        return next((cell for cell in self.cells if (cell.variant, cell.stage) == (variant, stage)), None)

    def costs(self, by: str) -> list[tuple[str, float, float, float, float]]:
        """GPU-hours planned and held, and US dollars planned and held, for each ``stage`` or ``variant`` and
        in all.
        """
        names = self.stages if by == "stage" else self.variants
        rows = [
            (name or "—", *_cost([cell for cell in self.cells if getattr(cell, by) == name]))
            for name in names
        ]
        return [row for row in rows if row[1] or row[2]] + [("total", *_cost(self.cells))]


def _cost(cells: list[Cell]) -> tuple[float, float, float, float]:
    planned = [cell.gpus * cell.planned_hours for cell in cells]
    held = [cell.gpus * cell.hours for cell in cells]
    prices = [cell.usd_per_gpu_hour for cell in cells]
    in_usd = (
        sum(hours * price for hours, price in zip(each, prices, strict=True)) for each in (planned, held)
    )
    return (sum(planned), sum(held), *in_usd)  # type: ignore[return-value]


def take_snapshot(recipe: Recipe, steps: Mapping[str, Step], states: Mapping[str, StepState]) -> Snapshot:
    """The campaign as it stands."""
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
            )
            for name, step in steps.items()
        ],
    )


def write_snapshot(output: str, snapshot: Snapshot) -> None:
    """``status.json`` and the page; once there is a comparison, the page begins with what it found."""
    from safe_r1.report.html import asset, content_policy, html_environment
    from safe_r1.report.markdown import percent

    folder, style = campaign_folder(output), asset("report.css") + asset("campaign.css")
    folder.write_json(SNAPSHOT, snapshot.model_dump())
    page = (
        html_environment()
        .get_template("campaign.html.jinja")
        .render(
            s=snapshot,
            zh=_CHINESE,
            style=Markup(style),
            policy=content_policy("", style),
            updated=_when(snapshot.updated_at),
            results=read_results(UPath(output) / COMPARISON),
            comparison=COMPARISON,
            percent=percent,
        )
    )
    folder.write_text(PAGE, page)


def read_snapshot(output: str) -> Snapshot:
    """The last snapshot of a campaign.

    Raises:
        StorageError: There is none.
    """
    found = campaign_folder(output).read_json(SNAPSHOT)
    if found is None:
        raise StorageError(f"no campaign in {output}: expected {FOLDER}/{SNAPSHOT} in it")
    return Snapshot.model_validate(found)


def campaign_folder(output: str) -> RunFolder:
    """Where a campaign keeps its book."""
    return RunFolder(UPath(output) / FOLDER)


def to_table(snapshot: Snapshot) -> Group:
    """Variants by stages, then what is missing and why."""
    table = Table(
        title=f"{snapshot.recipe}, {_when(snapshot.updated_at)}", title_justify="left", pad_edge=False
    )
    for title in ("variant", *snapshot.stages):
        table.add_column(title, overflow="fold")
    for variant in snapshot.variants:
        cells = (snapshot.cell(variant, stage) for stage in snapshot.stages)
        table.add_row(variant or "—", *(_styled(cell) for cell in cells))
    lines = [
        Text.from_markup(f"[red]{cell.status}[/] {escape(cell.name)}: {escape(cell.reason)}")
        for cell in snapshot.missing
    ]
    _, planned, held, *_ = snapshot.costs("stage")[-1]
    counts = ", ".join(f"{number} {status}" for status, number in _counts(snapshot).items())
    return Group(table, Text(f"{counts}; {held:,.1f} of {planned:,.1f} planned GPU-hours"), *lines)


def _styled(cell: Cell | None) -> Text:
    return Text("") if cell is None else Text(cell.text, style=_STYLES[cell.status])


def _counts(snapshot: Snapshot) -> Counter[str]:
    return Counter(cell.status for cell in snapshot.cells)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
