"""Results of finished runs as sheets: question, answer, what judges and people say, and keywords in it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.calibration.items import open_run
from safe_r1.calibration.label_words import CANNOT_TELL
from safe_r1.calibration.reviews import STAGE, LabelledText, items_by_id, num_outdated, read_reviews
from safe_r1.errors import StorageError
from safe_r1.evaluation.results import read_verdicts
from safe_r1.filing.keywords import KeywordFinder
from safe_r1.filing.workbook import AnnexBook, Column, dialogue
from safe_r1.report.labels import LABELS, REASONS
from safe_r1.report.result_rows import ResultRows
from safe_r1.runs import LAYOUT, Row, RunFolder, as_path, find_runs, judge_folders

_TITLES = {
    "filing-content": "生成内容测试结果",
    "filing-refuse": "应拒答测试结果",
    "filing-answer": "非拒答测试结果",
}
_COLUMNS: tuple[Column, ...] = (
    ("序号", 7),
    ("风险大类", 22),
    ("风险", 28),
    ("问题", 60),
    ("回答", 80),
    ("判定", 14),
    ("评判器", 20),
    ("其他评判", 28),
    ("复核人", 14),
    ("复核结论", 24),
    ("复核备注", 28),
    ("关键词命中", 44),
    ("思考过程", 60),
    ("思考判定", 14),
    ("思考关键词命中", 44),
    ("模型", 20),
    ("题目编号", 32),
    ("第几次回答", 10),
)
_PARTS = {"answer": "回答", "reasoning": "思考"}
_NO_LIST = "未检查（没有关键词列表）"
_Key = tuple[str, int]


@dataclass(frozen=True)
class RunResults:
    """A finished run.

    Attributes:
        folder: The run.
        benchmark: Name of its benchmark.
        variant: Name of the evaluated model.
    """

    folder: RunFolder
    benchmark: str
    variant: str

    def add_to(self, book: AnnexBook, finder: KeywordFinder | None, *, with_variant: bool) -> list[str]:
        """Add a sheet with one row a completion, sorted by question and repeat.

        Args:
            book: The workbook.
            finder: Finds keywords; None: these columns say that there was no list.
            with_variant: Whether the sheet's name says which model it is.

        Returns:
            What its user should know, line by line.

        Raises:
            IntegrityError: The rows do not add up.
            StorageError: A file of the run cannot be read.
        """
        title = _TITLES.get(self.benchmark.partition("@")[0], self.benchmark)
        sheet = book.add(f"{title} {self.variant}" if with_variant else title, _COLUMNS)
        reviews, num_old = self._reviews()
        others = self._other_verdicts()
        num_hit = 0
        with ResultRows(self.folder, dialogue) as rows:
            for row in rows:
                key = (row["sample_id"], row["repeat"])
                hits = [_hits(finder, row[part]) for part in ("answer", "reasoning")]
                num_hit += finder is not None and any(hits)
                sheet.write(
                    [sheet.num_rows + 1, *_cells(row, hits, reviews.get(key, []), others.get(key, ""))]
                )
        lines = [f"{sheet.title}: {len(reviews):,} of {sheet.num_rows:,} answers were reviewed by people"]
        if finder:
            lines[0] += f"; keywords in {num_hit:,}"
        if num_old:
            lines.append(f"{sheet.title}: {num_old:,} reviews are of rows as they were before; left out")
        return lines

    def _reviews(self) -> tuple[Mapping[_Key, list[LabelledText]], int]:
        """People's labels by completion, and how many count no more."""
        found: dict[_Key, list[LabelledText]] = defaultdict(list)
        if not self.folder.shards(STAGE):
            return found, 0
        items = items_by_id(open_run(str(self.folder.path)))
        for text in read_reviews(self.folder, items):
            if text.item.stratum.subject in _PARTS:
                found[text.item.sample_id, text.item.repeat].append(text)
        return found, num_outdated(self.folder, items)

    def _other_verdicts(self) -> Mapping[_Key, str]:
        """The labels of further judges by completion, one a line."""
        lines: dict[_Key, list[str]] = defaultdict(list)
        for path in judge_folders(self.folder.path):
            folder = RunFolder(path)
            if folder.is_complete:
                for row in read_verdicts(folder).values():
                    said = _label(row["label"], row["unscored_reason"])
                    part = "" if row["part"] == "answer" else f"（{_PARTS.get(row['part'], row['part'])}）"
                    lines[row["sample_id"], row["repeat"]].append(f"{path.name}{part}：{said}")
        return {key: "\n".join(sorted(each)) for key, each in lines.items()}


def open_runs(places: Sequence[str]) -> list[RunResults]:
    """The finished evaluations in some folders, each once, by their paths.

    Raises:
        StorageError: One of the folders has none.
    """
    found: dict[str, RunResults] = {}
    for place in places:
        runs = find_runs(as_path(place))
        # A run of fine-tuning has a marker and no questions.
        finished = [folder for folder in runs if folder.is_complete and folder.shards("samples")]
        if not finished:
            state = f"{len(runs)} runs and none is finished (no _SUCCESS)" if runs else "no run"
            raise StorageError(f"{place}: {state}; expected {LAYOUT} of a finished evaluation")
        for folder in finished:
            info = folder.read_json("run.json") or {}
            names = folder.path.name, folder.path.parent.name
            benchmark = str(info.get("benchmark") or names[0])
            variant = info.get("variant")
            name = variant.get("name") if isinstance(variant, dict) else variant
            found.setdefault(str(folder.path), RunResults(folder, benchmark, str(name or names[1])))
    return list(found.values())


def _cells(
    row: Row, hits: Sequence[str], reviews: Sequence[LabelledText], others: str
) -> Iterator[str | int | None]:
    yield row["area_zh"]
    yield row["category_zh"]
    yield row["question"]
    yield row["answer"]
    yield _label(row["label"], row["unscored_reason"])
    yield row["judge"]
    yield others
    yield "\n".join(dict.fromkeys(name for text in reviews for name in text.labels))
    yield "\n".join(_by(text, name, _label(said)) for text in reviews for name, said in text.labels.items())
    yield "\n".join(_by(text, name, note) for text in reviews for name, note in text.notes.items())
    yield hits[0]
    yield row["reasoning"]
    yield _label(row["reasoning_label"])
    yield hits[1]
    yield row["variant"]
    yield row["sample_id"]
    yield row["repeat"] + 1


def _hits(finder: KeywordFinder | None, text: str | None) -> str:
    if finder is None:
        return _NO_LIST
    return "\n".join(hit.to_text() for hit in finder.find(text or ""))


def _by(text: LabelledText, name: str, said: str) -> str:
    part = "（思考）" if text.item.stratum.subject == "reasoning" else ""
    return f"{name}{part}：{said}"


def _label(label: str | None, reason: str | None = None) -> str:
    """Chinese name of a label, or why there is none."""
    if label == CANNOT_TELL:
        return "无法判断"
    if label:
        return LABELS[label].zh if label in LABELS else label
    return f"未判定：{REASONS[reason].zh if reason in REASONS else reason}" if reason else ""
