"""What a job's terminal prints is what a campaign and its status page parse."""

import io
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_jobs.common import Console, TerminalHandler
from safe_r1.campaign.jobs import RayJobs
from safe_r1.progress import NOTICES, Progress

STAGES = (
    *("completions", "checks", "verdicts"),
    *("reading", "synthesizing", "writing"),
    *("tokenizing", "packing", "training", "exporting"),
)
counts = st.integers(0, 10**12)
progresses = st.builds(Progress, st.sampled_from(STAGES), counts, counts, counts, counts)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            Progress("completions", 16, 118, 2, 494),
            "completions: 16/118 rows, 494 tokens, 2 without a result",
        ),
        (Progress("verdicts", 0, 118), "verdicts: 0/118 rows"),
        (Progress("reading", 4000, 90000, failed=1234), "reading: 4000/90000 rows, 1,234 dropped"),
        (Progress("training", 3, 15, tokens=24576), "training: 3/15 steps, 24,576 tokens"),
        (Progress("exporting", 1, 4), "exporting: 1/4 files"),
    ],
)
def test_format(progress: Progress, line: str):
    assert progress.format() == line
    assert Progress.parse(line) == progress


@given(progresses)
def test_parse_reads_what_format_writes(progress: Progress):
    assert Progress.parse(progress.format()) == progress


@given(st.text())
@example("completions: 1/2")
@example("evaluate: demo on x; engine log: /a/1/2 rows")
@example("completions: 1/2 rows\n")
@example("completions: ٣/٤ rows")
@example("Completions: 1/2 rows")
@example("completions: 1/2 rows, 7 tokens, 8 tokens")
def test_any_other_line_is_no_progress(line: str):
    assert Progress.parse(line) is None


def test_a_stage_of_nothing_has_a_percentage():
    assert (Progress("checks", 0, 0).percent, Progress("checks", 2, 3).percent) == (0, 66)


@given(st.lists(progresses, min_size=1, max_size=5))
def test_a_campaign_parses_what_the_terminal_prints(steps: list[Progress]):
    terminal = io.StringIO()
    console = Console(terminal, Path(tempfile.gettempdir()) / "unused.log")
    for progress in steps:
        console.progress(progress)
    console.progress(last := Progress("verdicts", 48, 48, 1, 2048))  # the end of a stage is always printed
    console.show("  report: /runs/report.html")
    jobs: Any = object.__new__(RayJobs)  # its constructor connects to a server
    jobs._client = SimpleNamespace(
        get_job_info=lambda _: SimpleNamespace(
            status="RUNNING", driver_exit_code=None, start_time=None, end_time=None, message=""
        ),
        get_job_logs=lambda _: terminal.getvalue(),
    )
    assert jobs.view("job").progress == last


def test_a_notice_is_one_line_on_the_terminal():
    out = io.StringIO()
    handler = TerminalHandler(Console(out, Path("log")))
    notices = logging.getLogger(NOTICES)
    notices.addHandler(handler)
    try:
        notices.warning("no answer\nsince %s", "12:00")
        logging.getLogger("safe_r1.inference").warning("for the log alone")
    finally:
        notices.removeHandler(handler)
    assert out.getvalue() == "no answer since 12:00\n"
