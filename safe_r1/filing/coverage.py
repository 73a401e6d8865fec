"""Whether banks of questions and a list of keywords have what a policy asks for, by risk or aspect.

A team's own questions are rows as those of any other file: they count together, each question once.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from safe_r1.filing.policy import FilingPolicy, ListRule, Names

_SHOWN = 5


@dataclass(frozen=True)
class BankRow:
    """An entry of a bank, or of the list of keywords.

    Attributes:
        bank: Key or name of the bank; ``keywords`` for a keyword.
        risk: Key or name of its risk or aspect.
        id: Of the question itself: rows of one bank with the same id are one question.
    """

    bank: str
    risk: str
    id: str


@dataclass(frozen=True)
class Need:
    """What one risk or aspect of a bank, or the bank as a whole, has and needs.

    Attributes:
        bank: Key of the bank.
        key: Key of the risk or aspect; empty for the whole bank.
        names: Chinese and English name of the bank, with that of the risk or aspect behind it.
        num: Entries.
        needed: Entries that the policy asks for.
    """

    bank: str
    key: str
    names: Names
    num: int
    needed: int

    @property
    def is_met(self) -> bool:
        """Whether there are enough entries."""
        return self.num >= self.needed


@dataclass(frozen=True)
class CoverageCheck:
    """What the rows hold.

    Attributes:
        needs: Of each list with rows, the whole first, then its risks or aspects in the policy's order.
        without_rows: Lists of the policy of which there is no row, by key.
        unknown_banks: Rows by the name of a bank that the policy does not have.
        unknown_risks: Rows by bank and by the name of a risk or aspect that its coverage does not have; they
            count for the whole bank alone.
        num_repeated: Rows by bank that repeat a question of it; each question counts once.
    """

    needs: tuple[Need, ...]
    without_rows: dict[str, Names]
    unknown_banks: Counter[str]
    unknown_risks: dict[str, Counter[str]]
    num_repeated: Counter[str]

    @property
    def is_complete(self) -> bool:
        """Whether every list has all that the policy asks for."""
        return not self.without_rows and all(each.is_met for each in self.needs)

    def lines(self) -> list[Names]:
        """What is missing or cannot be counted, a line each, in Chinese and English."""
        return [
            *(_line_of_need(each) for each in self.needs if not each.is_met),
            *((f"{zh}：没有任何条目", f"{en}: no entry") for zh, en in self.without_rows.values()),
            *self._lines_of_rows(),
        ]

    def _lines_of_rows(self) -> Iterator[Names]:
        for bank, num in self.unknown_banks.items():
            yield f"未知题库“{bank}”：{num} 条未计入", f"unknown bank {bank!r}: {num} rows are not counted"
        names = {each.bank: each.names for each in self.needs if not each.key}
        for bank, risks in self.unknown_risks.items():
            zh, en = names[bank]
            shown = risks.most_common(_SHOWN)
            more = len(risks) - len(shown)
            of_risks_zh = "、".join(f"“{risk}” {num} 条" for risk, num in shown)
            of_risks_en = ", ".join(f"{risk!r} {num}" for risk, num in shown)
            yield (
                f"{zh}：{risks.total()} 条的风险或方面不在标准之列：{of_risks_zh}"
                + (f"，另有 {more} 种" if more else ""),
                f"{en}: {risks.total()} rows of a risk or aspect that this bank does not have: {of_risks_en}"
                + (f", and {more} more" if more else ""),
            )
        for bank, num in self.num_repeated.items():
            zh, en = names[bank]
            yield f"{zh}：{num} 条重复，只计一次", f"{en}: {num} rows repeat a question, counted once"


def check_coverage(rows: Iterable[BankRow], policy: FilingPolicy) -> CoverageCheck:
    """Count rows by bank and by risk or aspect, and hold the numbers against a policy."""
    lists = policy.lists()
    banks = {name: key for key, rule in lists.items() for name in (key, rule.zh, rule.en)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    unknown_risks: dict[str, Counter[str]] = defaultdict(Counter)
    unknown_banks: Counter[str] = Counter()
    num_repeated: Counter[str] = Counter()
    finders: dict[tuple[str, str], str | None] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        bank = banks.get(row.bank.strip())
        if bank is None:
            unknown_banks[row.bank] += 1
            continue
        if (bank, row.id) in seen:
            num_repeated[bank] += 1
            continue
        seen.add((bank, row.id))
        if (bank, row.risk) not in finders:
            finders[bank, row.risk] = find_risk(policy, lists[bank], row.risk)
        risk = finders[bank, row.risk]
        # Under an empty key: it counts for the bank as a whole.
        counts[bank][risk or ""] += 1
        if risk is None:
            unknown_risks[bank][row.risk] += 1
    needs = [each for key in counts for each in _needs(policy, key, lists[key], counts[key])]
    absent = {key: (rule.zh, rule.en) for key, rule in policy.banks.items() if key not in counts}
    return CoverageCheck(tuple(needs), absent, unknown_banks, dict(unknown_risks), num_repeated)


def find_risk(policy: FilingPolicy, rule: ListRule, name: str) -> str | None:
    """Key of a risk or aspect that a list covers, by key or name; None where it covers no such one."""
    found = (policy.groups[each.group].find(name) for each in rule.coverage)
    return next((key for key in found if key is not None), None)


def _needs(policy: FilingPolicy, key: str, rule: ListRule, counts: Counter[str]) -> Iterator[Need]:
    yield Need(key, "", (rule.zh, rule.en), counts.total(), rule.size.value)
    for each in rule.coverage:
        for risk, names in policy.groups[each.group].names.items():
            of_bank = (f"{rule.zh}，{names[0]}", f"{rule.en}, {names[1]}")
            yield Need(key, risk, of_bank, counts[risk], each.each.value)


def _line_of_need(need: Need) -> Names:
    zh, en = need.names
    short = need.needed - need.num
    if not need.key:
        return (
            f"{zh}：共 {need.num} 条，要求 {need.needed} 条，还差 {short} 条",
            f"{en}: {need.num} in all, {need.needed} needed, {short} missing",
        )
    return (
        f"{zh}：{need.num} 条，要求 {need.needed} 条，还差 {short} 条",
        f"{en}: {need.num}, {need.needed} needed, {short} missing",
    )
