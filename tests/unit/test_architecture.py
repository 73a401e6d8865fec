"""Layers of the package, read from its imports: no arrow up, no circle, no reaching into private parts."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "safe_r1"

# From the top down: a layer imports those below it. Members of one layer do not know each other.
LAYERS: list[set[str]] = [
    {"ray_jobs"},
    {"reference", "selfcheck"},
    {"cli"},
    {"filing"},
    {"gate"},
    {"calibration", "campaign", "serve", "compare", "evaluation", "corpus"},
    {"train"},
    {"report"},
    {"judge"},
    {"inference"},
    {"benchmarks"},
    {"attacks"},
    {"metrics"},
    {"chat"},
    {"models"},
    {"sandbox"},
    {"records"},
    {
        "config",
        "errors",
        "language",
        "locks",
        "policies",
        "progress",
        "provenance",
        "redaction",
        "resources",
        "runs",
        "schema",
        "settings",
        "taxonomy",
    },
]
# What these read of finished runs.
READERS_OF_RUNS = {
    ("calibration", "safe_r1.evaluation"),
    ("compare", "safe_r1.evaluation.results"),
    ("compare", "safe_r1.evaluation.run_rows"),
    ("compare", "safe_r1.calibration.calibrate"),
    ("campaign", "safe_r1.compare"),
}
# Commands of the command line are the job scripts' functions.
UPWARD = {("cli", "ray_jobs"), ("reference", "ray_jobs")}
BENCHMARK_MODULES = {
    "chisafetybench",
    "gpqa",
    "gsm8k",
    "harmbench",
    "jailbreakbench",
    "livecodebench",
    "livecodebench_problem",
    "math500",
    "own",
    "xstest",
}
ATTACK_MODULES = {
    "characters",
    "encoding",
    "framing",
    "pinyin",
    "reasoning",
    "translation",
    "words",
    "writing",
}
JUDGE_MODULES = {
    "endpoint",
    "installed",
    "lexicon",
    "lexicon_features",
    "lexicon_model",
    "llamaguard",
    "qwen3guard",
    "shieldgemma",
    "wildguard",
}
MAX_LOOSE_FILES = 15


@dataclass(frozen=True)
class Import:
    """One import: who, what, where, and whether it happens when the module is loaded."""

    importer: str
    imported: str
    place: str
    at_load: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.imported}"


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for top in ("safe_r1", "ray_jobs") for file in (ROOT / top).rglob("*.py")}


def imports_of(name: str, file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [each if each in MODULES else str(node.module) for each in inside]
        else:
            continue
        place = f"{file.relative_to(ROOT)}:{node.lineno}"
        for imported in dict.fromkeys(names):
            yield Import(name, imported, place, at_load=node in tree.body)


IMPORTS = [each for name, file in MODULES.items() for each in imports_of(name, file)]
OWN = [each for each in IMPORTS if each.imported.split(".")[0] in ("safe_r1", "ray_jobs")]


def part_of(module: str) -> str:
    """``evaluation`` for ``safe_r1.evaluation.plan``, ``config`` for ``safe_r1.config``."""
    parts = module.split(".")
    return parts[0] if parts[0] == "ray_jobs" else parts[1] if len(parts) > 1 else "safe_r1"


def layer_of(part: str) -> int:
    return next(place for place, layer in enumerate(LAYERS) if part in layer)


def test_every_part_has_a_layer():
    parts = {part_of(name) for name in MODULES} - {"safe_r1"}
    assert parts <= set().union(*LAYERS)


def test_imports_point_down():
    def is_allowed(each: Import) -> bool:
        importer, imported = part_of(each.importer), part_of(each.imported)
        if importer == imported or "safe_r1" in (importer, imported) or (importer, imported) in UPWARD:
            return True
        if any(importer == part and each.imported.startswith(module) for part, module in READERS_OF_RUNS):
            return True
        first, second = layer_of(importer), layer_of(imported)
        is_base = first == second == len(LAYERS) - 1
        return first < second or is_base

    assert [str(each) for each in OWN if not is_allowed(each)] == []


def test_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in OWN:
        if each.imported != each.importer:
            graph[each.importer].add(each.imported)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("part", "modules"),
    [("attacks", ATTACK_MODULES), ("benchmarks", BENCHMARK_MODULES), ("judge", JUDGE_MODULES)],
)
def test_nobody_reaches_into(part: str, modules: set[str]):
    """Attacks, benchmarks and judges are asked for by name, so that one more is one more file."""
    assert all(f"safe_r1.{part}.{module}" in MODULES for module in modules)
    hidden = tuple(f"safe_r1.{part}.{module}." for module in modules)
    found = [
        each for each in OWN if f"{each.imported}.".startswith(hidden) and part_of(each.importer) != part
    ]
    assert [str(each) for each in found] == []


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("ray.data.llm", "safe_r1.inference.processor"),
        ("ray.job_submission", "safe_r1.campaign.jobs"),
    ],
)
def test_one_owner(library: str, owner: str):
    assert {each.importer for each in IMPORTS if each.imported == library} == {owner}


def test_few_loose_files():
    files = sorted(file.name for file in PACKAGE.glob("*.py"))
    assert len(files) <= MAX_LOOSE_FILES, files


@pytest.mark.slow
def test_light_parts_need_no_heavy_library():
    """Settings, registries, scoring and reports work where neither torch nor ray nor vllm is installed."""
    light = [
        "safe_r1.config",
        "safe_r1.schema",
        "safe_r1.attacks.adaptive.driver",
        "safe_r1.attacks.apply",
        "safe_r1.attacks.choose",
        "safe_r1.benchmarks",
        "safe_r1.judge.factory",
        "safe_r1.metrics.rates",
        "safe_r1.models.registry",
        "safe_r1.report.html",
        "safe_r1.train.plan",
        "safe_r1.cli",
    ]
    heavy = {"torch", "ray", "vllm", "transformers"}
    code = f"import sys, {', '.join(light)}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
