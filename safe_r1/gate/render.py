"""Shows the result of a gate: a table for a terminal, JSON and JUnit XML for a pipeline."""

import json
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from safe_r1.gate.decide import Check, Status
from safe_r1.gate.run import GateResult
from safe_r1.report.text import printable

_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.UNDECIDED: "yellow"}


def to_table(result: GateResult) -> Table:
    """One row a check, the worst first."""
    table = Table(title=f"gate: {result.status.name.lower()}", title_justify="left")
    for column in ("status", "check", "run", "measured, % [95%]", "why"):
        table.add_column(column, overflow="fold")
    for check in result.checks:
        # Text and not markup: names come from run folders.
        cells = (check.name, check.run, check.measured, check.reason)
        status = Text(check.status.name.lower(), style=_STYLES[check.status])
        table.add_row(status, *(Text(printable(cell)) for cell in cells))
    return table


def to_json(result: GateResult) -> str:
    """``status``, ``exit_code`` and the checks."""
    checks = [
        {
            "status": check.status.name.lower(),
            "check": check.name,
            "run": check.run,
            "measured": check.measured,
            "reason": check.reason,
        }
        for check in result.checks
    ]
    found = {"status": result.status.name.lower(), "exit_code": result.status.value, "checks": checks}
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def to_junit(result: GateResult) -> str:
    """A JUnit test suite: a check that fails is a failure, an undecided one an error."""
    counts = {status: sum(check.status is status for check in result.checks) for status in Status}
    suite = ElementTree.Element(
        "testsuite",
        name="safe-r1 gate",
        tests=str(len(result.checks)),
        failures=str(counts[Status.FAIL]),
        errors=str(counts[Status.UNDECIDED]),
    )
    for check in result.checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname=printable(check.run) or "no run", name=printable(check.name)
        )
        if check.status is not Status.PASS:
            kind = "failure" if check.status is Status.FAIL else "error"
            ElementTree.SubElement(case, kind, message=_message(check))
        ElementTree.SubElement(case, "system-out").text = printable(check.measured)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _message(check: Check) -> str:
    return printable(f"{check.measured}: {check.reason}")
