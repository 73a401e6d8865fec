"""The dataset card of a corpus: what is in it, from where, under which licence, and what was left out and
why.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from safe_r1.corpus.recipe import Recipe
from safe_r1.runs import RunFolder, read_table
from safe_r1.taxonomy import AREAS, CATEGORIES

_STAGES = {
    "read": "not a usable record",
    "filter": "filters",
    "decontaminate": "too close to a benchmark question",
    "deduplicate": "duplicate of a kept row",
    "synthesize": "no candidate of the teacher was good enough",
    "mix": "clean, but not drawn for a quota",
}
_FRONT = """\
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


def render_card(recipe: Recipe, info: dict[str, Any]) -> str:
    """The card as Markdown with the front matter that ``datasets.load_dataset`` reads."""
    languages = sorted({row["language"] for row in info["kept"]})
    files = "".join(
        f"  - split: {split}\n    path: {split}/*.parquet\n" for split, rows in info["splits"].items() if rows
    )
    parts = [
        _FRONT.format(name=recipe.name, languages=", ".join(languages), files=files),
        f"# {recipe.name}\n\n{recipe.description}\n",
        f"{info['num_read']:,} rows read = {info['num_kept']:,} kept + {info['num_dropped']:,} dropped. "
        + ", ".join(f"{count:,} {split}" for split, count in info["splits"].items())
        + f". Teacher: {recipe.teacher}. Seed {recipe.seed}.\n",
        "## Kinds\n\n![Kinds](figures/kinds.svg)\n\n" + _kinds(info),
        "## Categories\n\n![Categories](figures/categories.svg)\n\n" + _categories(info),
        "## Lengths\n\nCharacters.\n\n![Lengths](figures/lengths.svg)\n\n" + _lengths(info),
        "## Sources and licences\n\n" + _sources(recipe, info),
        "## What was left out\n\n"
        + _drops(info)
        + "\nEvery dropped row stands in `drops/` with its reason.\n",
        _USE.format(name=recipe.name),
    ]
    return "\n".join(parts)


_USE = """\
## Use

Columns: `messages` (the last one is the assistant's, its reasoning in `<think>` tags), `kind`, `area`, `category`, `language`,
`source`, `source_id`, `licence`, `teacher`. Recipe, hashes and all counts are in `corpus.json`.

```python
from datasets import load_dataset
corpus = load_dataset("PATH/TO/THIS/FOLDER")  # train and validation
```

TRL and LLaMA-Factory read `jsonl/` (`jsonl/dataset_info.json` names it `{name}-train`). The stock chat template of the R1
family drops the reasoning of earlier turns; train with one that keeps it.
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = (
            f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|").replace("\n", " ")
            for cell in row
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sum_rows(rows: list[dict[str, Any]], *names: str) -> Counter[tuple[str, ...]]:
    """Rows of ``corpus.json``'s accounts, added up by some of their fields."""
    counts: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        counts[tuple(row[name] for name in names)] += row["rows"]
    return counts


def _kinds(info: dict[str, Any]) -> str:
    counts = sum_rows(info["kept"], "kind", "language")
    total = info["num_kept"] or 1
    return _table(
        ("kind", "language", "rows", "share"),
        [(*key, count, f"{count / total:.1%}") for key, count in sorted(counts.items())],
    )


def _categories(info: dict[str, Any]) -> str:
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


def _lengths(info: dict[str, Any]) -> str:
    rows = [(part, *values) for part, values in info["lengths"].items()]
    return _table(("", "median", "90 %", "longest"), rows)


def _sources(recipe: Recipe, info: dict[str, Any]) -> str:
    kept = sum_rows(info["kept"], "source")
    rows = [
        (
            source.name,
            source.hub or source.path or "",
            source.licence,
            source.kind,
            info["read"][source.name],
            kept[(source.name,)],
            source.why,
        )
        for source in recipe.sources
    ]
    return _table(("source", "where", "licence", "kind", "read", "kept", "why"), rows)


def _drops(info: dict[str, Any]) -> str:
    counts = sum_rows(info["dropped"], "stage", "reason")
    order = list(_STAGES)
    rows = [
        (stage, reason, count, _STAGES.get(stage, ""))
        for (stage, reason), count in sorted(
            counts.items(), key=lambda item: (order.index(item[0][0]), -item[1])
        )
    ]
    return _table(("stage", "reason", "rows", ""), rows)


def measure_lengths(
    folder: RunFolder, splits: Iterable[str]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Median, nine tenths and longest of prompt, reasoning and answer, and a histogram of each, shard by
    shard.
    """
    import numpy as np

    edges = np.concatenate(([0], np.geomspace(10, 100_000, 41)))
    values: dict[str, list[Any]] = {"prompt": [], "reasoning": [], "answer": []}
    for split in splits:
        for path in folder.shards(split):
            lengths = [
                _lengths_of(messages) for messages in read_table(path, ["messages"])["messages"].to_pylist()
            ]
            for place, name in enumerate(values):
                values[name].append(np.array([row[place] for row in lengths], np.int32))
    joined = {
        name: np.concatenate(pieces) if pieces else np.zeros(1, np.int32) for name, pieces in values.items()
    }
    summary = {
        name: [int(np.median(v)), int(np.quantile(v, 0.9)), int(v.max())] for name, v in joined.items()
    }
    return summary, {name: np.histogram(v, edges)[0].tolist() for name, v in joined.items()}


def _lengths_of(messages: list[dict[str, str]]) -> tuple[int, int, int]:
    reasoning, _, answer = messages[-1]["content"].partition("</think>")
    return sum(len(turn["content"]) for turn in messages[:-1]), len(reasoning), len(answer)


def write_figures(folder: RunFolder, info: dict[str, Any]) -> None:
    """``figures/{kinds,categories,lengths}.svg``; the same counts give the same bytes."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    colors = {"safety": "#b5473c", "benign-sensitive": "#d9a441", "reasoning": "#3c6e9f"}
    kinds = sum_rows(info["kept"], "kind", "language")
    languages = sorted({language for _, language in kinds})
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.subplots()
    for row, language in enumerate(languages):
        left = 0
        for kind, color in colors.items():
            axes.barh(row, kinds[kind, language], left=left, color=color, label=kind if row == 0 else None)
            left += kinds[kind, language]
    axes.set_yticks(range(len(languages)), languages)
    axes.set_xlabel("rows")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figures = {"kinds": figure}

    counts = sum_rows(info["kept"], "category", "kind")
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    axes = figure.subplots()
    names = list(CATEGORIES)
    left = np.zeros(len(names))
    for kind in ("safety", "benign-sensitive"):
        width = np.array([counts[name, kind] for name in names])
        axes.barh(range(len(names)), width, left=left, color=colors[kind], label=kind)
        left += width
    axes.set_yticks(range(len(names)), [CATEGORIES[name].name_en for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figures["categories"] = figure

    edges = np.concatenate(([1], np.geomspace(10, 100_000, 41)))
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, color in zip(info["histogram"], ("#777777", "#3c6e9f", "#2a8f6d"), strict=False):
        axes.stairs(info["histogram"][name], edges, label=name, color=color)
    axes.set_xscale("log")
    axes.set_xlabel("characters")
    axes.set_ylabel("rows")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figures["lengths"] = figure

    with matplotlib.rc_context({"svg.hashsalt": "safe_r1"}):
        for name, figure in figures.items():
            sink = io.StringIO()
            figure.savefig(sink, format="svg", metadata={"Date": None})
            folder.write_text(f"figures/{name}.svg", sink.getvalue())
