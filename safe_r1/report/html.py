"""The report as one HTML file that works offline, makes no request and runs no script but its own."""

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from safe_r1.metrics.rates import Rate
from safe_r1.metrics.rows import join_rows
from safe_r1.report.data import build_report
from safe_r1.report.embed import list_group, pack_details, pack_index
from safe_r1.report.labels import STATUSES, TONES, BenchmarkLabels, BilingualName, labels_of
from safe_r1.report.markdown import bounds_with_interval, figure, percent
from safe_r1.report.text import printable, script_json
from safe_r1.schema import Completion, Sample, Verdict

_SCRIPTS = ("store.js", "detail.js", "browser.js")


def render_html(
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    metrics: dict[str, Any],
    run_info: Mapping[str, object],
    kinds: Sequence[Sample] | None = None,
    num_rows: int | None = None,
    calibration: Mapping[str, object] | None = None,
    first: Collection[str] = frozenset(),
) -> str:
    """Render ``report.html``; encode it as UTF-8.

    Args:
        samples: The samples that it shows.
        completions: One for each sample and repeat.
        verdicts: As ``compute_metrics`` takes them.
        metrics: Content of ``metrics.json``, see ``safe_r1.metrics.rates.compute_metrics``.
        run_info: Content of ``run.json``; any entry may be missing.
        kinds: A sample of each kind in the run; None where ``samples`` are all of them.
        num_rows: Completions of the whole run; None where ``completions`` are all of them.
        calibration: Content of ``calibration.json``; None where there is none.
        first: Ids of samples on which judges disagree, whose rows the browser lists before all others.

    Raises:
        IntegrityError: The rows do not add up, see ``safe_r1.metrics.rows.join_rows``.
    """
    rows = join_rows(samples, completions, verdicts)
    # Stable: within both parts the order of the benchmark stays.
    rows.sort(key=lambda row: row.sample.sample_id not in first)
    data = build_report(samples if kinds is None else kinds, metrics, run_info, calibration)
    script = "\n".join(asset(name) for name in _SCRIPTS)
    style = asset("report.css")
    return (
        html_environment()
        .get_template("report.html.jinja")
        .render(
            data=data,
            contrast=_contrast,
            script=Markup(script),
            style=Markup(style),
            policy=content_policy(script, style),
            names=script_json(_script_names(samples, data.labels)),
            index=Markup(pack_index(rows)),
            details=[Markup(chunk) for chunk in pack_details(rows)],
            num_rows=len(rows),
            num_disputed=sum(row.sample.sample_id in first for row in rows),
            num_all_rows=num_rows or len(rows),
            percent=percent,
            figure=figure,
            bounds=bounds_with_interval,
        )
    )


def html_environment() -> jinja2.Environment:
    """Environment of HTML templates: every text is made printable and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("safe_r1.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # Markup, a subclass of str, is text that was escaped already.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["printable"] = printable
    return environment


def asset(name: str) -> str:
    """Text of a file in the templates folder."""
    return resources.files("safe_r1.report").joinpath("templates", name).read_text("utf-8")


def content_policy(script: str, style: str) -> str:
    """Content-Security-Policy that allows only this inline script and style, and no request."""

    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

    return (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _contrast(rate: Rate, overall: Rate | None, better: str) -> str:
    """``better`` or ``worse`` where the whole interval lies on one side of the overall rate, else empty."""
    if overall is None or rate.low <= overall.value <= rate.high:
        return ""
    return "better" if (rate.low > overall.value) == (better == "higher") else "worse"


def label_rows(labels: Iterable[BilingualName]) -> list[list[str]]:
    """Key, both names and colour of each label, as the scripts take them."""
    return [[name.key, name.zh, name.en, TONES[name.key]] for name in labels]


def _script_names(samples: Sequence[Sample], labels: BenchmarkLabels) -> dict[str, list[list[str]]]:
    """Names that the script shows, in the order of its filters."""

    def table(names: Iterable[BilingualName]) -> list[list[str]]:
        return [[printable(name.key), name.zh, name.en] for name in names]

    groups = list(dict.fromkeys(map(list_group, samples)))
    # The filter by category offers the categories of the chosen area alone.
    area_of = {sample.category: sample.area for sample in samples}
    return {
        "tasks": table(map(labels.group_name, groups)),
        "areas": table(map(labels.name, labels.ordered(sample.area for sample in samples))),
        "categories": [
            [*table([labels.name(key)])[0], printable(area_of[key])] for key in labels.ordered(area_of)
        ],
        "labels": label_rows(labels_of(groups)),
        "statuses": table(STATUSES.values()),
    }
