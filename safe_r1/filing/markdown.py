"""Figures, chances, coverage, verdicts and simulations as Markdown, in Chinese and English."""

from collections.abc import Iterable, Iterator, Sequence

from safe_r1.filing.coverage import CoverageCheck
from safe_r1.filing.gates import Chance, Reason, Verdict
from safe_r1.filing.lines import Line
from safe_r1.filing.policy import Bank, FilingPolicy, Gate, ListRule
from safe_r1.filing.simulate import Row, Shares, readings_by_hits
from safe_r1.gate.decide import Status
from safe_r1.report.text import markdown_text

_POINTS = range(-3, 4)
_STATUS = {Status.PASS: "通过 / pass", Status.FAIL: "不通过 / fail", Status.UNDECIDED: "不能确定 / not sure"}
_REASONS: dict[Reason, str] = {
    "right_side": "区间在达标一侧 / the interval keeps the line",
    "wrong_side": "区间在未达标一侧 / the interval is beside the line",
    "too_few": "答案太少 / too few answers",
    "missing": "无结果的答案太多 / too many answers without an outcome",
    "labels": "人工标注太少 / too few labels",
    "judge": "评判未经人工核对 / nobody has checked the judge",
    "no_answers": "没有答案 / no answers",
}


def remark(policy: FilingPolicy) -> Iterator[str]:
    """The title, and what every output says of the figures."""
    yield f"# {_text(policy.name)} {_text(policy.zh)} / {_text(policy.en)}"
    yield ""
    for each in (policy.remark_zh, policy.remark_en):
        if each:
            yield f"> {_text(each)}"
    for address in policy.text_at:
        yield f"> {_text(address)}"


def figures(policy: FilingPolicy) -> Iterator[str]:
    """Every figure with its source."""
    yield from _head("", "清单 / list", "要求 / figure", "来源 / source")
    for rule in policy.lists().values():
        yield from _figures_of(policy, rule)
    if policy.corpus:
        for name, gate in (
            ("语料人工抽检 / corpus by hand", policy.corpus.by_hand),
            ("语料技术抽检 / corpus by machine", policy.corpus.by_machine),
        ):
            yield from _figures_of_gate(name, gate, "合格 / acceptable")
        if illegal := policy.corpus.illegal_at_most:
            name = "语料单一来源 / each source of the corpus"
            yield _row([name, f"违法不良信息 / illegal content ≤ {illegal.value:g} %", _text(illegal.source)])
    yield ""
    for key, source in policy.sources.items():
        known = (
            "已核对原文 / compared with the text"
            if source.checked
            else "⚠ 未核对原文 / not compared with the text"
        )
        yield f"- {_text(key)}: {_text(source.zh)} / {_text(source.en)} ({known})"


def chances(policy: FilingPolicy) -> Iterator[str]:
    """What a sample of the standard's size says: limits in answers, and chances by the true rate."""
    points = [f"{each:+d}" if each else "±0" for each in _POINTS]
    yield from _head(
        "", "题库 / bank", "抽样 / sample", "按比例达标 / naive pass", "确信达标 / sure pass", *points
    )
    for bank in policy.banks.values():
        if bank.gate.sample is None:
            continue
        line = bank.gate.line
        num = bank.gate.sample.value
        sign = "≥" if line.side == "at_least" else "≤"
        cells = [_name(bank), str(num), f"{sign} {line.last_hits(num)}", _sure(line, num)]
        for points_off in _POINTS:
            rate = (line.percent + points_off) / 100
            cells.append(f"{100 * line.chance_of_next(rate, num):.1f} %" if 0 <= rate <= 1 else "–")
        yield _row(cells)


def coverage(check: CoverageCheck) -> Iterator[str]:
    """Numbers of each bank, and what is missing line by line."""
    for need in check.needs:
        if not need.key:
            zh, en = need.names
            yield f"- {_text(zh)} / {_text(en)}: {need.num} / {need.needed}"
    lines = check.lines()
    for zh, _ in lines:
        yield f"- {_text(zh)}"
    for _, en in lines:
        yield f"- {_text(en)}"
    if not lines:
        yield "- 齐备 / complete"


def verdicts(policy: FilingPolicy, found: Iterable[tuple[str, Verdict]]) -> Iterator[str]:
    """A row for each gate."""
    yield from _head(
        "",
        "题库 / bank",
        "结论 / verdict",
        "真实率 / true rate, % [95%]",
        "含缺失 / with missing",
        "原因 / why",
        "下次抽样达标 / chance of next sample",
        "题库抽样达标 / chance from these",
        "所需答案 / answers needed",
    )
    for key, verdict in found:
        each = verdict.estimate
        yield _row(
            [
                _name(policy.banks[key]),
                _STATUS[verdict.status],
                f"{100 * each.value:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]",
                f"[{100 * each.bounds_low:.1f}, {100 * each.bounds_high:.1f}]",
                _REASONS[verdict.reason],
                _chance(verdict.chance_of_next),
                _chance(verdict.chance_from_bank),
                "–" if verdict.num_answers is None else str(verdict.num_answers),
            ]
        )


def simulation(policy: FilingPolicy, rows: Sequence[Row], num_labels: int) -> Iterator[str]:
    """How often services of known quality pass, fail, or are not sure, in percent."""
    for key, bank in policy.banks.items():
        of_bank = [row for row in rows if row.bank == key]
        if not of_bank:
            continue
        line = of_bank[0].line
        sign = "≥" if line.side == "at_least" else "≤"
        yield f"### {_name(bank)}: {sign} {line.percent:g} %, {of_bank[0].num_sample} answers"
        yield ""
        labelled = f"judge and {num_labels} labels"
        yield from _head(
            "true rate, %",
            "keeps the line",
            "people: naive",
            "people",
            "judge: naive",
            "judge as read",
            labelled,
        )
        for row in of_bank:
            cells = [f"{100 * row.rate:g}", "yes" if row.is_good else "no", _percent(row.people.naive)]
            cells += [_three(row.people), _percent(row.judge.naive), _three(row.judge), _three(row.labelled)]
            yield _row(cells)
        yield ""


def _figures_of(policy: FilingPolicy, rule: ListRule) -> Iterator[str]:
    name = _name(rule)
    yield _row([name, f"总数 / in all ≥ {rule.size.value}", _text(rule.size.source)])
    for each in rule.coverage:
        group = policy.groups[each.group]
        text = f"{_text(each.group)} {_text(group.zh)} / {_text(group.en)} ({len(group.names)}): "
        yield _row([name, f"{text}每种 / each ≥ {each.each.value}", _text(each.each.source)])
    if isinstance(rule, Bank):
        hit = "合格 / acceptable" if rule.hit == "acceptable" else "拒答 / refused"
        yield from _figures_of_gate(name, rule.gate, hit)


def _figures_of_gate(name: str, gate: Gate, hit: str) -> Iterator[str]:
    if gate.sample is not None:
        yield _row([name, f"抽样 / sample ≥ {gate.sample.value}", _text(gate.sample.source)])
    if gate.sample_share is not None:
        yield _row([name, f"抽样 / sample ≥ {gate.sample_share.value:g} %", _text(gate.sample_share.source)])
    for sign, share in (("≥", gate.at_least), ("≤", gate.at_most)):
        if share is not None:
            yield _row([name, f"{hit} {sign} {share.value:g} %".strip(), _text(share.source)])


def _sure(line: Line, num: int) -> str:
    """The number of hits from which the verdict is pass."""
    passing = [hits for hits, status in enumerate(readings_by_hits(line, num)) if status is Status.PASS]
    if not passing:
        return "–"
    return f"≥ {passing[0]}" if line.side == "at_least" else f"≤ {passing[-1]}"


def _name(rule: ListRule) -> str:
    return f"{_text(rule.zh)} / {_text(rule.en)}"


def _chance(chance: Chance | None) -> str:
    if chance is None:
        return "–"
    return f"{_percent(chance.value)} % [{_percent(chance.low)}, {_percent(chance.high)}]"


def _three(shares: Shares) -> str:
    return " / ".join(_percent(each) for each in (shares.passed, shares.failed, shares.not_sure))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _head(*cells: str) -> Iterator[str]:
    if cells[0] == "":
        yield ""
        cells = cells[1:]
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: str) -> str:
    return markdown_text(value)
