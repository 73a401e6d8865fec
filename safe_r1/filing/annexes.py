"""The annex tables of a filing: keywords and questions by bank in one workbook, results of runs in another.

``annexes.xlsx`` has the sheets in the usual form; ``results.xlsx`` one sheet a run, a row a completion, with
what judges, people and keywords say of it. Texts of several turns are one cell, each turn below its speaker.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from safe_r1.benchmarks import Benchmark, get_benchmark
from safe_r1.errors import ConfigError
from safe_r1.filing.keyword_files import read_keywords
from safe_r1.filing.keywords import KeywordFinder, KeywordList, check_list
from safe_r1.filing.policy import load_policy
from safe_r1.filing.questions import reading_config
from safe_r1.filing.result_sheets import RunResults, open_runs
from safe_r1.filing.workbook import AnnexBook, AnnexSheet, Column, dialogue
from safe_r1.redaction import hide_credentials
from safe_r1.report.export_files import new_file
from safe_r1.runs import as_path
from safe_r1.schema import Sample
from safe_r1.taxonomy import AREAS, CATEGORIES, area_of, find_category

BANK_SHEETS: Mapping[str, str] = {
    "content": "生成内容测试题库",
    "refuse": "应拒答测试题库",
    "answer": "非拒答测试题库",
}
"""Bank to the name of its sheet."""
KEYWORD_SHEET = "拦截关键词列表"
"""Name of the sheet of keywords; ``read_keywords`` reads it again."""
ANNEXES = "annexes.xlsx"
RESULTS = "results.xlsx"
_NUMBER: Column = ("序号", 7)
_KEYWORD_COLUMNS = (_NUMBER, ("关键词", 28), ("风险大类", 26), ("风险", 34))
_QUESTION = (("题目", 80), ("题型", 10), ("隐晦程度", 10), ("题库", 26), ("题目编号", 32))
_RISK_COLUMNS = (_NUMBER, ("风险大类", 26), ("风险", 34), *_QUESTION)
_ASPECT_COLUMNS = (_NUMBER, ("方面", 14), *_QUESTION, ("回答要点", 60))
_FORMS = {
    "question": "提问",
    "instruction": "指令",
    "role": "角色扮演",
    "continuation": "续写",
    "judgement": "判断",
}
_LEVELS = {"plain": "直白", "indirect": "间接", "subtle": "隐晦"}
_WRITTEN = "题库 filing-* 由语言模型撰写并独立阅读两遍，未经人工逐条审阅。"


def write_annexes(
    output: str,
    keywords: str | None = None,
    runs: Sequence[str] = (),
    questions: Sequence[str] = (),
    policy: str | None = None,
) -> Iterator[str]:
    """Write the workbooks; yields what was written and what its user should know, line by line.

    Args:
        output: Folder or URI of the files.
        keywords: File with a list of keywords; None: no such sheet, and no hits in the results.
        runs: Finished runs, or folders above them; none: no workbook of results.
        questions: ``BANK=FILE`` each: a team's own questions, which follow those of the bank.

        policy: File with other figures than those of GB/T 45654-2025, see ``load_policy``.

    Raises:
        ConfigError: A bank is unknown, or the policy cannot be read.
        DataError: A file cannot be read, or rows of it do not fit.
        IntegrityError: The rows of a run do not add up.
        StorageError: A run is not finished or cannot be read, or a file cannot be written.
    """
    figures = load_policy(policy)
    own = [_split_bank(each) for each in questions]
    words = read_keywords(keywords) if keywords else None
    found = open_runs(runs)
    if words:
        yield from check_list(words, figures)
    notes = [f"{figures.name} {figures.zh}", *filter(None, (figures.remark_zh,))]
    yield from _write_banks(output, words, own, notes)
    if found:
        yield from _write_results(output, KeywordFinder(words) if words else None, found, notes)


def _split_bank(given: str) -> tuple[str, str]:
    """Bank and file of ``BANK=FILE``."""
    bank, _, file = given.partition("=")
    if bank not in BANK_SHEETS or not file:
        raise ConfigError(
            f"--questions {given!r}: expected BANK=FILE with a BANK of {', '.join(BANK_SHEETS)}"
        )
    return bank, file


def _write_banks(
    output: str, words: KeywordList | None, own: Sequence[tuple[str, str]], remarks: Sequence[str]
) -> Iterator[str]:
    book = AnnexBook()
    repeated: Counter[str] = Counter()
    notes = [*remarks, _WRITTEN]
    if words:
        _add_keywords(book, words)
        notes.append(f"关键词列表：{words.name}")
    for bank, title in BANK_SHEETS.items():
        sheet = book.add(title, _ASPECT_COLUMNS if bank == "answer" else _RISK_COLUMNS)
        chosen = [get_benchmark(f"filing-{bank}")]
        chosen += [get_benchmark(file, reading_config()) for each, file in own if each == bank]
        repeated[bank] = _add_questions(sheet, chosen, is_by_aspect=bank == "answer")
        notes.append(f"{title}：{'；'.join(benchmark.title for benchmark in chosen)}")
    path = as_path(output) / ANNEXES
    with new_file(path) as temporary:
        book.save(temporary, notes)
    yield f"annexes: {hide_credentials(str(path))}: {_sizes(book)}"
    for bank, num in repeated.items():
        if num:
            yield f"{BANK_SHEETS[bank]}: {num:,} questions stand in it already and are left out"


def _write_results(
    output: str, finder: KeywordFinder | None, runs: Sequence[RunResults], remarks: Sequence[str]
) -> Iterator[str]:
    book = AnnexBook()
    notes = list(remarks)
    many = len({run.variant for run in runs}) > 1
    lines: list[str] = []
    for run in runs:
        lines += run.add_to(book, finder, with_variant=many)
        notes.append(f"{book.sheets[-1].title}：模型 {run.variant}，评测集 {run.benchmark}")
    path = as_path(output) / RESULTS
    with new_file(path) as temporary:
        book.save(temporary, notes)
    yield f"results: {hide_credentials(str(path))}: {_sizes(book)}"
    yield from lines


def _sizes(book: AnnexBook) -> str:
    # The last sheet is about the others.
    return ", ".join(sheet.to_text() for sheet in book.sheets[:-1])


def _add_keywords(book: AnnexBook, words: KeywordList) -> None:
    sheet = book.add(KEYWORD_SHEET, _KEYWORD_COLUMNS)
    for keyword in words.words:
        # A row for each risk, so that the list can be read again.
        for risk in keyword.risks or ("",):
            area = AREAS[area_of(risk)].name_zh if risk else ""
            name = CATEGORIES[risk].name_zh if risk else ""
            sheet.write([sheet.num_rows + 1, keyword.word, area, name])


def _add_questions(sheet: AnnexSheet, benchmarks: Iterable[Benchmark], *, is_by_aspect: bool) -> int:
    """Write the questions of a bank; gives how many were left out, as they stand in it already."""
    known: set[tuple[tuple[str, str], ...]] = set()
    num_repeated = 0
    for benchmark in benchmarks:
        labels = benchmark.labels
        for sample in benchmark.load():
            turns = tuple((turn["role"], turn["content"]) for turn in sample.messages)
            if turns in known:
                num_repeated += 1
                continue
            known.add(turns)
            area, category = _names(sample, labels)
            filed = [category] if is_by_aspect else [area, category]
            row: list[str | int] = [sheet.num_rows + 1, *filed, *_question(sample, benchmark.title)]
            sheet.write([*row, sample.metadata.get("good_answer", "")] if is_by_aspect else row)
    return num_repeated


def _question(sample: Sample, bank: str) -> list[str]:
    form, level = (sample.metadata.get(name, "") for name in ("form", "level"))
    return [
        dialogue(sample.messages),
        _FORMS.get(form, form),
        _LEVELS.get(level, level),
        bank,
        sample.sample_id,
    ]


def _names(sample: Sample, labels: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Chinese names of the area and the category of a sample; those of a file as they stand there."""
    area, category = (
        labels.get(key, (key.rpartition("/")[2], ""))[0] for key in (sample.area, sample.category)
    )
    if known := find_category(category):
        return AREAS[known.area].name_zh, known.name_zh
    return area, category
