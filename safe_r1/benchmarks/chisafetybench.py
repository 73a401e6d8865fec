"""CHiSafetyBench v1: Chinese multiple-choice questions on risks, and risky questions to be refused.

Data: 1,567 multiple-choice questions, 462 risky questions, 101 more at the end of a dialogue; read as
published, with duplicates and garbled items kept. No licence is stated, so the package does not include them:
see ``fetch``.
Metrics: accuracy; RR-1, RR-2 and HR of the refusal task.

Source: arXiv 2406.10311; github UnicomAI/UnicomBenchmark, ``CHiSafetyBench/dataset/v1``.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from safe_r1.benchmarks.answer_key import AnswerKey, check_key, load_key
from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Score, Workload
from safe_r1.benchmarks.choice import extract_choice
from safe_r1.benchmarks.fetch import GITHUB, Source
from safe_r1.benchmarks.files import as_path, field_of, folder_with, list_of, parse_json, read_bytes
from safe_r1.benchmarks.options import mcq_prompt, parse_options, score_choice
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample, Task
from safe_r1.taxonomy import (
    AREAS,
    CATEGORIES,
    REFUSAL_AREAS,
    Category,
    find_area,
    find_category,
    is_area_not_stated,
)

__all__ = ["CHISAFETYBENCH", "CHISAFETYBENCH_SAMPLE", "FILES", "ChiSafetyBench", "extract_choice"]

logger = logging.getLogger(__name__)

MCQ_FILE = "mcq.json"
REFUSAL_FILE = "risky_questions_without_dialog_history.json"
HISTORY_FILE = "risky_questions_with_dialog_history.json"
FILES = (MCQ_FILE, REFUSAL_FILE, HISTORY_FILE)
_PACKAGE_DATA = Path(__file__).parent / "data"
_WORKLOAD = Workload(num_questions=2130, completion_tokens=700)
_SOURCE = Source(
    "chisafetybench",
    f"{GITHUB}/UnicomAI/UnicomBenchmark/e949fc8feb4aaec810b39e6c884e5f98ee8f4160/CHiSafetyBench/dataset/v1",
    {
        MCQ_FILE: "9900af0e259d8f58d68584961ac5f13fc229066d5b73add142313c92d0c8edcd",
        REFUSAL_FILE: "9682ed99cc49a4ccd0b7a291dc5019f6a569fb01817155b8deaf56ea84b9359a",
        HISTORY_FILE: "b4251d1870bd857dfcd3c8d81f4fe5af4b9bc3516dbc34395f952919e42a86f6",
    },
    "v1",
)
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ChiSafetyBench(BaseBenchmark):
    """A benchmark in the file format of CHiSafetyBench v1.

    Attributes:
        name: Name on the command line and in ``sample_id``.
        title: Name in reports.
        key_path: The answer key in the package.
        data_path: The questions in the package; None where they have to be fetched.
        repeats: Completions of a question.
        source: Where it is published; a file with another hash is used, with a warning.
        workload: Size assumptions for planning.
    """

    name: str
    title: str
    key_path: Path
    data_path: Path | None = None
    repeats: int = 1
    source: Source | None = None
    workload: Workload = _WORKLOAD

    takes_answer_key = True

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Names of the multiple-choice task, the risk areas and the categories."""
        entries = (*AREAS.values(), *CATEGORIES.values())
        return {
            "mcq": ("风险内容识别（选择题）", "Risk identification (multiple choice)"),
            **{entry.key: (entry.name_zh, entry.name_en) for entry in entries},
        }

    @property
    def published(self) -> Traversable:
        """Figures of other models by the benchmark's authors and by others."""
        return files("safe_r1.benchmarks").joinpath("data", "chisafetybench", "published.toml")

    def score(self, sample: Sample, repeat: int, answer: str) -> Score | None:
        """The answer key decides multiple choice, a judge the rest."""
        return score_choice(sample, answer) if sample.task == "mcq" else None

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """All samples: multiple choice, then refusal, then refusal with history, each in the order of its
        file.

        Args:
            data: The folder that holds ``v1``, or ``v1`` itself; a local path or any fsspec URI.
            answer_key: A key that replaces the shipped one.

        Raises:
            DataError: A file is missing or damaged, an item cannot be read, or the key does not fit the
                questions.
        """
        contents = self._read(data)
        # A warning, not an error: a corrected copy may be what the user wants to measure.
        for name, published in (self.source.files_sha256 if self.source else {}).items():
            if hashlib.sha256(contents[name]).hexdigest() != published:
                logger.warning(
                    "%s differs from the published v1: results on it are not comparable with others", name
                )
        key = self._key(answer_key)
        items = {name: parse_json(content, name) for name, content in contents.items()}
        samples = [
            *self._mcq(items[MCQ_FILE], key),
            *self._refusal(items[REFUSAL_FILE]),
            *self._refusal_with_history(items[HISTORY_FILE]),
        ]
        _require_unique(samples)
        return samples

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """Name and hash of the key that ``load`` would use."""
        return self._key(answer_key).identity

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 over names and contents of the three files."""
        digest = hashlib.sha256()
        for name, content in self._read(data).items():
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()

    def _key(self, answer_key: Location | None) -> AnswerKey:
        if answer_key is not None:
            return load_key(answer_key)
        return load_key(str(self.key_path), f"{self.name}/shipped")

    def _read(self, data: Location | None) -> dict[str, bytes]:
        remedy = f"give --data the folder that holds v1/{{{','.join(FILES)}}}"
        if data is None and self.data_path is None:
            remedy = f"run `safe-r1 fetch {self.name}`, or {remedy}"
        root = as_path(str(self.data_path or _SOURCE.default_target) if data is None else data)
        # `v1` itself may be given, the folder that holds it, or one with a folder for each benchmark.
        folder = folder_with(root, "chisafetybench/v1", FILES)
        if not folder and self.data_path and root.is_dir() and not (root / "v1").is_dir():
            # A folder of several benchmarks, among which the shipped one need not be.
            folder = as_path(str(self.data_path)) / "v1"
        folder = folder or root / "v1"
        return {name: read_bytes(folder / name, remedy) for name in FILES}

    def _mcq(self, areas: object, key: AnswerKey) -> list[Sample]:
        samples: list[Sample] = []
        questions: dict[int, tuple[str, dict[str, str]]] = {}
        for area, item, where in _items_by_area(areas, MCQ_FILE):
            item_id = field_of(item, "id", int, where)
            text = field_of(item, "question", str, where)
            category = _category(area, field_of(item, "category", str, where), where)
            if item_id in questions:
                raise DataError(f"{where}: id occurs twice")
            try:
                _, options = parse_options(text)
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            questions[item_id] = (text, options)
            messages = [Message(role="user", content=mcq_prompt(text))]
            samples.append(self._sample("mcq", "mcq", item_id, category, messages, options))
        # Before any answer is taken: a key for other questions would give plausible but wrong accuracies.
        check_key(key, questions)
        for sample in samples:
            entry = key.entries[int(sample.metadata["source_id"])]
            sample.metadata.update(answer=entry.answer, key_confidence=entry.confidence)
        return samples

    def _refusal(self, areas: object) -> Iterator[Sample]:
        for area, item, where in _items_by_area(areas, REFUSAL_FILE):
            item_id = field_of(item, "id", int, where)
            category = _category(area, field_of(item, "category", str, where), where, refusal=True)
            messages = [Message(role="user", content=field_of(item, "question", str, where))]
            yield self._sample("refusal", "refusal", item_id, category, messages)

    def _refusal_with_history(self, items: object) -> Iterator[Sample]:
        for position, item in enumerate(list_of(items, HISTORY_FILE), start=1):
            where = f"{HISTORY_FILE}, item {position}"
            area = field_of(item, "category", str, where)
            category = _category(area, field_of(item, "sub_category", str, where), where, refusal=True)
            messages = [
                *_history(item, where),
                Message(role="user", content=field_of(item, "input", str, where)),
            ]
            yield self._sample("refusal", "refusal-history", position, category, messages)

    def _sample(
        self,
        task: Task,
        part: str,
        number: int,
        category: Category,
        messages: list[Message],
        options: dict[str, str] | None = None,
    ) -> Sample:
        return Sample(
            sample_id=f"{self.name}/{part}/{number:04d}",
            benchmark=self.name,
            task=task,
            area=category.area,
            category=category.key,
            messages=messages,
            options=options or {},
            metadata={"source_id": str(number), "has_history": "true" if len(messages) > 1 else "false"},
        )


def _items_by_area(areas: object, file: str) -> Iterator[tuple[str, object, str]]:
    """Area name, item and the item's position for messages, of all items in a file of areas."""
    for number, area in enumerate(list_of(areas, file), start=1):
        name = field_of(area, "category", str, f"{file}, area {number}")
        infos = list_of(field_of(area, "infos", list, f"{file}, area {number}"), f"{file}, area {number}")
        for position, item in enumerate(infos, start=1):
            where = f"{file}, area {number}, entry {position}"
            # By its id where it has one: that is what a user can search for in the file.
            if isinstance(item, dict) and "id" in item:
                where = f"{file}, item {item['id']}"
            yield name, item, where


def _category(area_name: str, category_name: str, where: str, *, refusal: bool = False) -> Category:
    category = find_category(category_name)
    if category is None:
        raise DataError(
            f"{where}: unknown category {category_name!r}; see safe_r1/taxonomy.py for the 31 known ones"
        )
    if refusal and category.area not in REFUSAL_AREAS:
        raise DataError(f"{where}: category {category_name!r} carries no refusal questions")
    # Some published items have a placeholder for the area; their category determines it.
    if refusal and is_area_not_stated(area_name):
        return category
    area = find_area(area_name)
    if area is None:
        raise DataError(f"{where}: unknown area {area_name!r}")
    if area.key != category.area:
        raise DataError(f"{where}: category {category_name!r} does not belong to area {area_name!r}")
    return category


def _history(item: object, where: str) -> Iterator[Message]:
    for number, turn in enumerate(
        list_of(field_of(item, "history", list, where), f"{where}, history"), start=1
    ):
        turn_where = f"{where}, turn {number}"
        role = field_of(turn, "role", str, turn_where)
        if role not in _ROLES:
            raise DataError(f"{turn_where}: role is {role!r}, expected one of {', '.join(_ROLES)}")
        yield Message(role=role, content=field_of(turn, "content", str, turn_where))


def _require_unique(samples: list[Sample]) -> None:
    seen: set[str] = set()
    for sample in samples:
        if sample.sample_id in seen:
            raise DataError(f"{sample.sample_id}: id occurs twice in the data")
        seen.add(sample.sample_id)


CHISAFETYBENCH = ChiSafetyBench(
    name="chisafetybench",
    title="CHiSafetyBench v1",
    key_path=_PACKAGE_DATA / "chisafetybench" / "answer_key.jsonl",
    source=_SOURCE,
)

CHISAFETYBENCH_SAMPLE = ChiSafetyBench(
    name="chisafetybench-sample",
    title="Sample in the form of CHiSafetyBench (our own questions)",
    key_path=_PACKAGE_DATA / "chisafetybench_sample" / "answer_key.jsonl",
    data_path=_PACKAGE_DATA / "chisafetybench_sample",
    workload=Workload(num_questions=48, completion_tokens=700),
)
