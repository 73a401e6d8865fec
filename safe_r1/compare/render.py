"""Renders a comparison as Markdown and HTML and writes all files of its report."""

from collections.abc import Sequence

from markupsafe import Markup
from upath import UPath

from safe_r1.compare.attacks import is_under_attack
from safe_r1.compare.charts import dumbbell_charts, heatmaps, scatter_points
from safe_r1.compare.data import ComparisonData
from safe_r1.compare.differences import Comparison
from safe_r1.compare.flips import Flip, page_entries
from safe_r1.compare.load import Run
from safe_r1.compare.rate_tables import RateCell
from safe_r1.compare.tables import comparisons_csv, flips_csv, rates_csv, rates_latex, transfers_csv
from safe_r1.metrics.tests import Difference
from safe_r1.report.embed import pack
from safe_r1.report.html import asset, content_policy, html_environment, label_rows
from safe_r1.report.labels import LABELS, BilingualName
from safe_r1.report.markdown import markdown_environment, percent, rate_with_bounds, rate_with_interval
from safe_r1.report.text import script_json
from safe_r1.runs import write_bytes

_SCRIPTS = ("store.js", "detail.js", "compare.js")
_MINUS = "−"


def write_report(output: UPath, data: ComparisonData, runs: Sequence[Run], flips: Sequence[Flip]) -> UPath:
    """Write ``report.html``, ``report.md``, ``comparisons.csv``, ``flips.csv`` and ``tables/``; of
    attacked benchmarks ``transfer.csv``.

    Returns:
        The path of ``report.html``.

    Raises:
        StorageError: The folder cannot be written.
    """
    files = {
        "report.md": render_markdown(data),
        "report.html": render_html(data, runs, flips),
        "comparisons.csv": comparisons_csv(data.comparisons),
        "flips.csv": flips_csv(flips),
    }
    if data.transfers:
        files["transfer.csv"] = transfers_csv(data.transfers)
    for table in data.tables:
        files[f"tables/{table.key}.csv"] = rates_csv(table)
        files[f"tables/{table.key}.tex"] = rates_latex(table)
    for name, text in files.items():
        # Model output may hold lone surrogates, which have no encoding.
        write_bytes(output / name, text.encode("utf-8", errors="replace"))
    return output / "report.html"


def render_markdown(data: ComparisonData) -> str:
    """Render ``report.md``."""
    return markdown_environment().get_template("compare.md.jinja").render(data=data, **_FORMATTERS)


def render_html(data: ComparisonData, runs: Sequence[Run], flips: Sequence[Flip]) -> str:
    """Render ``report.html``: one file that works offline."""
    script = "\n".join(map(asset, _SCRIPTS))
    style = asset("report.css") + asset("compare.css")
    entries, num_left_out = page_entries(flips)
    return (
        html_environment()
        .get_template("compare.html.jinja")
        .render(
            data=data,
            dumbbells=dumbbell_charts(data),
            heatmaps=heatmaps([run for run in runs if not is_under_attack(run)], data.variants),
            scatter=scatter_points(data),
            flips=Markup(pack(entries)),
            num_flips=len(flips),
            num_left_out=num_left_out,
            # The page has no filter by status, but its chips ask for the table.
            names=script_json({"labels": label_rows(LABELS.values()), "statuses": []}),
            script=Markup(script),
            style=Markup(style),
            policy=content_policy(script, style),
            **_FORMATTERS,
        )
    )


def _points(value: float) -> Markup:
    """A fraction as signed percentage points with one decimal."""
    return Markup(f"{100 * value:+.1f}".replace("-", _MINUS))


def _change(difference: Difference) -> Markup:
    return Markup(f"{_points(difference.value)} [{_points(difference.low)}, {_points(difference.high)}]")


def _change_or_dash(comparison: Comparison | None) -> Markup:
    """A difference with its interval, a star where it is significant; a dash for None."""
    if comparison is None:
        return Markup("–")
    return Markup(f"{_change(comparison.difference)}{' *' if comparison.is_significant else ''}")


def _bounds(difference: Difference) -> Markup:
    """The bounds over missing rows; a dash where nothing is missing."""
    if not difference.num_missing:
        return Markup("–")
    return Markup(f"{_points(difference.bound_low)} … {_points(difference.bound_high)}")


def _cell_change(cell: RateCell) -> Markup:
    """The difference behind a rate, with both rates of the rows it is of where these are not the rate's."""
    comparison = cell.comparison
    if not comparison:
        return Markup("")
    found = comparison.difference
    text = f"{_points(found.value)}{'*' if comparison.is_significant else ''}"
    if found.num_pairs < found.num_asked:
        text = f"{percent(found.first)} → {percent(found.second)}: {text}"
    return Markup(text)


def _p_value(value: float) -> Markup:
    return Markup("&lt;0.001" if value < 0.001 else f"{value:.3f}")


def _standing(comparison: Comparison, margin: float) -> BilingualName:
    """The result of the non-inferiority test in one sentence."""
    first, second = comparison.first, comparison.second
    points = f"{100 * margin:g}"
    standing = comparison.standing or "undecided"
    zh, en = {
        "not worse": (
            f"{second} 不劣于 {first}（界值 {points} 个百分点）",
            f"{second} is non-inferior to {first} with a margin of {points} points",
        ),
        "worse": (
            f"{second} 比 {first} 差 {points} 个百分点以上",
            f"{second} is worse than {first} by more than {points} points",
        ),
        "undecided": (
            f"无法判定 {second} 是否比 {first} 差 {points} 个百分点或更多",
            f"whether {second} is worse than {first} by {points} points or more is undecided",
        ),
    }[standing]
    found = comparison.difference
    change = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return BilingualName(standing, f"{zh}（pass@1 {change}）。", f"{en} (pass@1 {change}).")


_FORMATTERS = {
    "percent": percent,
    "ci": rate_with_interval,
    "change": _change,
    "change_or_dash": _change_or_dash,
    "bounds": _bounds,
    "bounded": rate_with_bounds,
    "cell_change": _cell_change,
    "points": _points,
    "p_value": _p_value,
    "standing": _standing,
}
