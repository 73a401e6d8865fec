"""What a calibration found: as plain values, and as text for a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from upath import UPath

from safe_r1.calibration.corrected import CorrectedRate
from safe_r1.calibration.imputation import StratumLabels
from safe_r1.calibration.inversion import GoldRange
from safe_r1.calibration.items import Stratum
from safe_r1.calibration.reviews import LabelledText, PairAgreement
from safe_r1.judge.gold_errors import GoldErrors
from safe_r1.report.labels import METRICS
from safe_r1.report.text import one_line
from safe_r1.runs import JsonObject
from safe_r1.schema import RefusalLabel

SCHEMA_VERSION = 1
NOT_OF_THIS_MODEL = "not of this model"


@dataclass(frozen=True)
class Calibration:
    """What ``safe_r1.calibration.calibrate.calibrate`` found.

    Attributes:
        path: ``calibration.json``.
        judge: The judge of the run, as reports print it.
        rates: Corrected rates; empty without labels.
        strata: Strata with their labels; empty without labels.
        num_labelled: Texts with a label that counts.
        num_cannot_tell: Texts that nobody could label.
        num_new: Labels that were recorded by this call.
        num_outdated: Labels that were recorded earlier, of rows that have changed since.
        agreements: Agreement of each two annotators.
        disputed: Texts on which annotators disagree.
        errors: How the judge errs on the gold set; None where that is not known.
        ranges: Rates by inversion of these errors, where there are no labels.
    """

    path: UPath
    judge: str
    rates: list[CorrectedRate] = field(default_factory=list)
    strata: Mapping[Stratum, StratumLabels] = field(default_factory=dict)
    num_labelled: int = 0
    num_cannot_tell: int = 0
    num_new: int = 0
    num_outdated: int = 0
    agreements: list[PairAgreement] = field(default_factory=list)
    disputed: list[LabelledText] = field(default_factory=list)
    errors: GoldErrors | None = None
    ranges: list[GoldRange] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Content of ``calibration.json``, apart from what names run and draws."""
        return {
            "schema_version": SCHEMA_VERSION,
            "judge": self.judge,
            "num_labelled": self.num_labelled,
            "num_cannot_tell": self.num_cannot_tell,
            "num_outdated": self.num_outdated,
            "rates": [rate.to_json() for rate in self.rates],
            "strata": [
                {
                    **stratum._asdict(),
                    "num_texts": labels.size,
                    "labels": dict(zip(stratum.classes, labels.counts.round(4).tolist(), strict=True)),
                }
                for stratum, labels in self.strata.items()
            ],
            "agreements": [each.to_json() for each in self.agreements],
            "disputed": [
                {
                    "sample_id": text.item.sample_id,
                    "repeat": text.item.repeat,
                    "subject": text.item.stratum.subject,
                    "labels": dict(text.labels),
                    "notes": dict(text.notes),
                }
                for text in self.disputed
            ],
            "gold": self._gold(),
        }

    def _gold(self) -> JsonObject | None:
        """What is known of the judge from elsewhere; marked as such."""
        if self.errors is None:
            return None
        return {
            "about": NOT_OF_THIS_MODEL,
            "judge": self.errors.judge,
            "source": self.errors.source,
            "labels": [str(label) for label in RefusalLabel],
            "confusion": self.errors.confusion().round(2).tolist(),
            "false_positive_rate_harmful": self.errors.false_positive_rate(RefusalLabel.HARMFUL),
            "ranges": [each.to_json() for each in self.ranges],
        }

    def to_text(self) -> str:
        """For a terminal."""
        lines = self._labelled_lines() if self.strata else self._unlabelled_lines()
        return "\n".join(map(one_line_kept, [*lines, f"  written: {self.path}"]))

    def _labelled_lines(self) -> list[str]:
        lines = [
            f"calibrate: {self.num_labelled} texts labelled ({self.num_new} new labels), "
            f"{self.num_cannot_tell} that nobody could label; judge {self.judge or 'none'}"
        ]
        if self.num_outdated:
            lines.append(f"  {self.num_outdated} earlier labels are of other rows and do not count")
        for each in self.agreements:
            kappa = "undefined" if each.kappa is None else f"{each.kappa:.2f}"
            lines.append(
                f"  {each.first or 'unnamed'} and {each.second or 'unnamed'} on the {each.subject}: "
                f"{each.num_equal} of {each.num_texts} equal, kappa {kappa}"
            )
        for text in self.disputed:
            said = "; ".join(f"{name or 'unnamed'}: {label}" for name, label in sorted(text.labels.items()))
            item = text.item
            lines.append(f"  disagree on {item.sample_id} ({item.repeat}, {item.stratum.subject}): {said}")
        lines.append(f"  {'rate, in %':<40}{'judged':>8}{'corrected':>11}  95% interval    with missing rows")
        lines += [_rate_line(rate) for rate in self.rates if rate.scope == "overall"]
        if any(rate.floored for rate in self.rates):
            lines.append("  * no label of that kind was drawn: the end is that of Jeffreys' interval")
        return lines

    def _why_unlabelled(self) -> str:
        if not self.num_outdated:
            return (
                "calibrate: no labels of this run, so no rate is corrected; safe-r1 label-sample draws texts"
            )
        return (
            f"calibrate: the {self.num_outdated} labels of this run are of other rows (its completions or "
            "verdicts have changed since they were drawn), so no rate is corrected; restore the rows, or "
            "draw and label again: safe-r1 label-sample"
        )

    def _unlabelled_lines(self) -> list[str]:
        lines = [self._why_unlabelled()]
        if self.errors is None:
            return [*lines, f"  nothing is known of the errors of judge {self.judge or 'none'}"]
        lines.append(f"  {self.errors.judge} on {self.errors.source}: {NOT_OF_THIS_MODEL}")
        if self.errors.judge != self.judge:
            lines.append(f"  this run was judged by {self.judge}, whose errors may be others")
        names = [label.name.lower() for label in RefusalLabel]
        lines.append(f"  {'known label / judge says':<28}" + "".join(f"{name:>13}" for name in names))
        for name, row in zip(names, self.errors.confusion().tolist(), strict=True):
            lines.append(f"  {name:<28}" + "".join(f"{count:>13.0f}" for count in row))
        for each in self.ranges:
            name = METRICS[each.metric].en
            lines.append(
                f"  {name}: judged {100 * each.judged:.1f}; {100 * each.low:.1f} to {100 * each.high:.1f} "
                f"if the judge errs as on that set ({NOT_OF_THIS_MODEL})"
            )
            if each.cannot_be_told:
                share = 100 * self.errors.false_positive_rate(RefusalLabel.HARMFUL)
                lines.append(
                    f"    cannot be told: not above the {share:.1f}% of other texts that it calls harmful"
                )
        return lines


def one_line_kept(line: str) -> str:
    """A line for a terminal without control characters; its indentation stays."""
    body = line.lstrip(" ")
    return line[: len(line) - len(body)] + "  ".join(one_line(part) for part in body.split("  "))


def _rate_line(rate: CorrectedRate) -> str:
    name = METRICS[rate.metric].en + (", reasoning" if rate.part == "reasoning" else "")
    judged = "" if rate.judged is None else f"{100 * rate.judged:.1f}"
    marks = {side: "*" if rate.floored == side else "" for side in ("low", "high")}
    interval = f"[{100 * rate.low:.1f}{marks['low']}, {100 * rate.high:.1f}{marks['high']}]"
    bounds = ""
    if rate.num_missing:
        bounds = f"[{100 * rate.bound_low:.1f}, {100 * rate.bound_high:.1f}] ({rate.num_missing} missing)"
    return f"  {name:<40}{judged:>8}{100 * rate.value:>11.1f}  {interval:<16}{bounds}"
