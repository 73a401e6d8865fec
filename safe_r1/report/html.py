"""The report as one HTML file: works offline, asks the network for nothing, and runs no script but its own."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from safe_r1.metrics.rates import Rate
from safe_r1.metrics.rows import join_rows
from safe_r1.report.data import build_report
from safe_r1.report.embed import pack_details, pack_index
from safe_r1.report.labels import (
    STATUSES,
    TASKS,
    TONES,
    Name,
    area_name,
    category_name,
    in_report_order,
    labels_of,
)
from safe_r1.report.markdown import figure, percent
from safe_r1.report.text import printable, script_json
from safe_r1.schema import Completion, Sample, Verdict

_SCRIPTS = ("store.js", "detail.js", "browser.js")


def render_html(
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    metrics: dict[str, Any],
    run_info: dict[str, Any],
) -> str:
    """Render ``report.html``; encode it as UTF-8.

    Args:
        samples: All samples of the run.
        completions: One for each sample and repeat.
        verdicts: As ``compute_metrics`` takes them.
        metrics: Content of ``metrics.json``, see ``safe_r1.metrics.rates.compute_metrics``.
        run_info: Content of ``run.json``; missing entries are tolerated.

    Raises:
        IntegrityError: The rows do not add up, see ``safe_r1.metrics.rates.join_rows``.
    """
    rows = join_rows(samples, completions, verdicts)
    script, style = "\n".join(asset(name) for name in _SCRIPTS), asset("report.css")
    return (
        html_environment()
        .get_template("report.html.jinja")
        .render(
            data=build_report(metrics, run_info),
            standing=_standing,
            area_name=area_name,
            script=Markup(script),
            style=Markup(style),
            policy=content_policy(script, style),
            names=script_json(_names(samples)),
            index=Markup(pack_index(rows)),
            details=[Markup(chunk) for chunk in pack_details(rows)],
            num_rows=len(rows),
            percent=percent,
            figure=figure,
        )
    )


def html_environment() -> jinja2.Environment:
    """Templates of HTML: every text is made printable and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("safe_r1.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["printable"] = printable
    return environment


def asset(name: str) -> str:
    """A file of the templates as text."""
    return resources.files("safe_r1.report").joinpath("templates", name).read_text("utf-8")


def content_policy(script: str, style: str) -> str:
    """Content-Security-Policy under which only these two inline texts take effect, and nothing is fetched."""

    def digest(text: str) -> str:
        return (
            "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"
        )

    return f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; base-uri 'none'; form-action 'none'"


def _standing(rate: Rate, overall: Rate | None, better: str) -> str:
    """``better`` or ``worse`` where the whole interval lies on one side of the overall rate, else empty."""
    if overall is None or rate.low <= overall.value <= rate.high:
        return ""
    return "better" if (rate.low > overall.value) == (better == "higher") else "worse"


def label_rows(labels: Iterable[Name]) -> list[list[str]]:
    """Key, both names and tone of each label, as the scripts take them."""
    return [[name.key, name.zh, name.en, TONES[name.key]] for name in labels]


def _names(samples: Sequence[Sample]) -> dict[str, Any]:
    """Names that the script shows, in the order of its filters."""

    def table(names: Sequence[Name]) -> list[list[str]]:
        return [[printable(name.key), name.zh, name.en] for name in names]

    groups = list(dict.fromkeys(sample.group for sample in samples))
    area_of = {sample.category: sample.area for sample in samples}
    return {
        "tasks": table([TASKS[group] for group in groups]),
        "areas": table([area_name(key) for key in in_report_order({sample.area for sample in samples})]),
        "categories": [
            [*table([category_name(key)])[0], printable(area_of[key])]
            for key in in_report_order(set(area_of))
        ],
        "labels": label_rows(labels_of(groups)),
        "statuses": table(list(STATUSES.values())),
    }
