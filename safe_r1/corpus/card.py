"""Dataset card of a corpus: content, sources, licences, length statistics, and dropped rows by reason."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from safe_r1.corpus.accounting import CorpusInfo, sum_rows
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.runs import RunFolder, read_table
from safe_r1.settings import hide_credentials
from safe_r1.taxonomy import AREAS, CATEGORIES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

_STAGES = {
    "read": "not a usable record",
    "filter": "filters",
    "decontaminate": "too close to a benchmark question",
    "deduplicate": "duplicate of a kept row",
    "synthesize": "no candidate of the teacher was good enough",
    "mix": "clean, but not drawn for a quota",
}
_FRONT_MATTER = """\
---
pretty_name: {name}
language: [{languages}]
license: other
task_categories: [text-generation]
tags: [safety, reasoning, sft]
configs:
- config_name: default
  data_files:
{files}---
"""
_USE = """\
## Use

Columns: `messages` (the last one is the assistant's, its reasoning in `<think>` tags), `kind`, `area`,
`category`, `language`, `source`, `source_id`, `licence`, `teacher`{columns}. Recipe, hashes and all
counts are in `corpus.json`.

```python
from datasets import load_dataset
corpus = load_dataset("PATH/TO/THIS/FOLDER")  # train and validation
```

TRL and LLaMA-Factory read `jsonl/` (`jsonl/dataset_info.json` names it `{name}-train`). The stock chat
template of the R1 family drops the reasoning of earlier turns; train with one that keeps it.
"""
_COLORS = {"safety": "#b5473c", "benign-sensitive": "#d9a441", "reasoning": "#3c6e9f", "general": "#7a7a7a"}
_PARTS = {"prompt": "#777777", "reasoning": "#3c6e9f", "answer": "#2a8f6d"}


def render_card(recipe: CorpusRecipe, info: CorpusInfo) -> str:
    """The card as Markdown, with the front matter that ``datasets.load_dataset`` reads."""
    languages = sorted({str(row["language"]) for row in info["kept"]})
    splits = info["splits"]
    files = "".join(
        f"  - split: {split}\n    path: {split}/*.parquet\n" for split, rows in splits.items() if rows
    )
    sizes = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    sections = [
        _FRONT_MATTER.format(name=recipe.name, languages=", ".join(languages), files=files),
        f"# {recipe.name}\n\n{recipe.description}\n",
        f"{info['num_read']:,} rows read = {info['num_kept']:,} kept + {info['num_dropped']:,} dropped. "
        f"{sizes}. Teacher: {hide_credentials(recipe.teacher)}. Seed {recipe.seed}.\n",
        "## Kinds\n\n![Kinds](figures/kinds.svg)\n\n" + _kinds(info),
        "## Categories\n\n![Categories](figures/categories.svg)\n\n" + _categories(info),
        *_attacks(info),
        "## Lengths\n\nCharacters.\n\n![Lengths](figures/lengths.svg)\n\n" + _lengths(info),
        "## Sources and licences\n\n" + _sources(recipe, info),
        "## What was left out\n\n" + _drops(info) + "\nEvery dropped row is in `drops/` with its reason.\n",
        _USE.format(name=recipe.name, columns=", `attack`, `question`" if recipe.attacks.train else ""),
    ]
    return "\n".join(sections)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _kinds(info: CorpusInfo) -> str:
    counts = sum_rows(info["kept"], "kind", "language")
    rows = [(*key, count, f"{count / info['num_kept']:.1%}") for key, count in sorted(counts.items())]
    return _table(("kind", "language", "rows", "share"), rows)


def _categories(info: CorpusInfo) -> str:
    counts = sum_rows([row for row in info["kept"] if row["category"] != "-"], "category", "kind")
    rows = [
        (
            AREAS[category.area].name_en,
            category.name_en,
            category.name_zh,
            counts[key, "safety"],
            counts[key, "benign-sensitive"],
        )
        for key, category in CATEGORIES.items()
    ]
    return _table(("area", "category", "类别", "safety", "benign-sensitive"), rows)


def _attacks(info: CorpusInfo) -> list[str]:
    """The section on attacks; none where the recipe says nothing of them."""
    found = info.get("attacks")
    if found is None:
        return []
    rows = [(row["attack"], row["kind"], row["rows"]) for row in found["by_kind"]]
    held_out = ", ".join(found["held_out"]) or "nothing"
    return [
        "## Attacks\n\nThe question of an attacked row is asked as attackers ask; its response answers the "
        "plain one, which is in `question`. Filters, decontamination, deduplication and quotas saw the plain "
        f"question. Held out for evaluation, and in no row: {held_out}.\n",
        _table(("attack", "kind", "rows"), rows),
        "Some attacks bring turns of an assistant that consents. Train on the last turn alone, or on turns "
        "with `<think>` alone, as safe_r1 does (LLaMA-Factory: `mask_history: true`).\n",
    ]


def _lengths(info: CorpusInfo) -> str:
    rows = [(part, *values) for part, values in info["lengths"].items()]
    return _table(("", "median", "90 %", "longest"), rows)


def _sources(recipe: CorpusRecipe, info: CorpusInfo) -> str:
    kept = sum_rows(info["kept"], "source")
    rows = [
        (
            source.name,
            source.hub or hide_credentials(source.path or ""),
            source.licence,
            source.kind,
            info["read"][source.name],
            kept[(source.name,)],
            source.why,
        )
        for source in recipe.sources
    ]
    return _table(("source", "where", "licence", "kind", "read", "kept", "why"), rows)


def _drops(info: CorpusInfo) -> str:
    stages = list(_STAGES)
    counts = sum_rows(info["dropped"], "stage", "reason")
    # In the order of the stages, the most frequent reason first.
    ordered = sorted(counts.items(), key=lambda item: (stages.index(item[0][0]), -item[1]))
    rows = [(stage, reason, count, _STAGES[stage]) for (stage, reason), count in ordered]
    return _table(("stage", "reason", "rows", ""), rows)


def length_edges(first: float) -> "npt.NDArray[np.float64]":
    """Edges of the 41 length bins in characters: ``first``, then logarithmic from 10 to 100,000."""
    import numpy as np

    return np.concatenate(([first], np.geomspace(10, 100_000, 41)))


def measure_lengths(
    folder: RunFolder, splits: Iterable[str]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Lengths of prompt, reasoning and answer in characters, read shard by shard.

    Returns:
        Median, 90th percentile and maximum of each; number of rows of each in the bins of ``length_edges``.
    """
    import numpy as np

    # Only the lengths are kept: the driver never holds the texts of all shards.
    lengths: list[npt.NDArray[np.int32]] = []
    for split in splits:
        for path in folder.shards(split):
            conversations = read_table(path, ["messages"])["messages"].to_pylist()
            lengths.append(np.array([_lengths_of(messages) for messages in conversations], np.int32))
    columns = dict(zip(_PARTS, np.concatenate(lengths).T, strict=True))
    summary = {
        name: [int(np.median(values)), int(np.quantile(values, 0.9)), int(values.max())]
        for name, values in columns.items()
    }
    edges = length_edges(0)
    return summary, {name: np.histogram(values, edges)[0].tolist() for name, values in columns.items()}


def _lengths_of(messages: list[dict[str, str]]) -> tuple[int, int, int]:
    reasoning, _, answer = messages[-1]["content"].partition("</think>")
    return sum(len(turn["content"]) for turn in messages[:-1]), len(reasoning), len(answer)


def write_figures(folder: RunFolder, info: CorpusInfo) -> None:
    """Write ``figures/{kinds,categories,lengths}.svg``; equal counts give equal bytes."""
    import matplotlib

    figures = {
        "kinds": _kinds_figure(info),
        "categories": _categories_figure(info),
        "lengths": _lengths_figure(info),
    }
    # Without a salt the ids of SVG elements are random.
    with matplotlib.rc_context({"svg.hashsalt": "safe_r1"}):
        for name, figure in figures.items():
            sink = io.StringIO()
            figure.savefig(sink, format="svg", metadata={"Date": None})
            folder.write_text(f"figures/{name}.svg", sink.getvalue())


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _kinds_figure(info: CorpusInfo) -> "Figure":
    counts = sum_rows(info["kept"], "kind", "language")
    languages = sorted({language for _, language in counts})
    figure = _new_figure(7, 2.2)
    axes = figure.subplots()
    for row, language in enumerate(languages):
        left = 0
        for kind, color in _COLORS.items():
            # One legend entry per kind, not one per bar.
            label = kind if row == 0 else None
            axes.barh(row, counts[kind, language], left=left, color=color, label=label)
            left += counts[kind, language]
    axes.set_yticks(range(len(languages)), languages)
    axes.set_xlabel("rows")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _categories_figure(info: CorpusInfo) -> "Figure":
    import numpy as np

    counts = sum_rows(info["kept"], "category", "kind")
    names = list(CATEGORIES)
    figure = _new_figure(7, 7.5)
    axes = figure.subplots()
    left = np.zeros(len(names))
    for kind in ("safety", "benign-sensitive"):
        width = np.array([counts[name, kind] for name in names])
        axes.barh(range(len(names)), width, left=left, color=_COLORS[kind], label=kind)
        left += width
    axes.set_yticks(range(len(names)), [CATEGORIES[name].name_en for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _lengths_figure(info: CorpusInfo) -> "Figure":
    # A logarithmic axis has no zero.
    edges = length_edges(1)
    figure = _new_figure(7, 2.6)
    axes = figure.subplots()
    for name, color in _PARTS.items():
        axes.stairs(info["histogram"][name], edges, label=name, color=color)
    axes.set_xscale("log")
    axes.set_xlabel("characters")
    axes.set_ylabel("rows")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
