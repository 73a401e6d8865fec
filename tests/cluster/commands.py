"""Finds the commands that the files under cluster/ name, and checks that what they call exists."""

import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

from ray_jobs import build_corpus, campaign, evaluate, finetune
from safe_r1.campaign import recipe as campaign_recipe
from safe_r1.cli import app as safe_r1_app
from safe_r1.config import EvaluateConfig
from safe_r1.corpus import recipe as corpus_recipe
from safe_r1.models.registry import get_variant
from safe_r1.resources import NODE_LABELS
from safe_r1.settings import load_config
from safe_r1.train.config import FinetuneConfig

ROOT = Path(__file__).parents[2]
GROUPS = campaign_recipe.load_recipe("paper").groups
JOBS = {"evaluate": evaluate, "build_corpus": build_corpus, "finetune": finetune, "campaign": campaign}

# A command ends where a sentence begins, at a comment, or with the line.
_PROGRAMS = r"(?:kubectl|docker build|sbatch|ray|make|safe-r1|python) "
_IN_BACKTICKS = re.compile(rf"`((?:\w+=\S+\s+)*{_PROGRAMS}[^`]+)`")
_IN_COMMENT = re.compile(
    r"^\s*#\s*(?:.*: )?"
    r"((?:\w+=\S+ )?(?:kubectl (?:apply|create|delete) -[fk]|docker build|sbatch --|ray up) ?\S.*?)"
    r"(?:\.\s|$)",
    re.MULTILINE,
)


def shell_lines(text: str) -> Iterator[str]:
    """The commands in the code blocks and the backticks of a Markdown text."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())
    yield from _IN_BACKTICKS.findall(
        re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL).replace("\n", " ")
    )


def comment_lines(text: str) -> list[str]:
    """The commands in the comments of a YAML file, a Dockerfile or a script."""
    return [line.replace("`", "") for line in _IN_COMMENT.findall(text)]


def check_command(line: str) -> int:
    """Check every program of one line of shell; returns how many it knew.

    Raises:
        AssertionError: A file, a command, a flag or a setting that does not exist.
    """
    known = 0
    for part in re.split(r"\s(?:\||&&|&)(?:\s|$)", line):
        known += check_words(shlex.split(part, comments=True))
    return known


def check_words(words: list[str]) -> bool:
    """Check one program, after the variables that are set for it; False: it is not known."""
    while words and re.match(r"(export$|env$|\w+=)", words[0]):
        if words[0].startswith(f"{NODE_LABELS}="):
            assert words[0].partition("=")[2] in {f"safe-r1/group={name}" for name in GROUPS}, (
                f"no group of {words[0]}"
            )
        words = words[1:]
    if not words or words[0] not in CHECKS:
        return False
    CHECKS[words[0]](words[1:])
    return True


def check_python(words: list[str]) -> None:
    """``python FILE FLAGS`` or ``python -m MODULE``."""
    if words[0] == "-c":
        return
    if words[0] == "-m":
        if words[1] != "pytest":
            importlib.import_module(words[1])
        return check_paths(words[2:])
    assert (ROOT / words[0]).is_file(), f"no script {words[0]}"
    name = Path(words[0]).stem
    options = read_options(typer.main.get_command(JOBS[name].app), words[1:])
    check_settings(name, options)


def read_options(command: Any, words: list[str]) -> dict[str, list[str]]:
    """The flags of a command line with their values; all of them are known to the command."""
    flags = {name: option for option in command.params for name in [*option.opts, *option.secondary_opts]}
    given: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        if word in ("...", "--"):
            break
        if not word.startswith("-"):
            continue
        name, _, value = word.partition("=")
        assert name in flags, f"{command.name} knows no {name}"
        is_flag = getattr(flags[name], "is_flag", False)
        given.setdefault(name, []).append(value or ("" if is_flag else next(rest)))
    return given


def check_settings(job: str, options: dict[str, list[str]]) -> None:
    """The values of a job's flags are ones that the job takes."""
    one = {name: values[-1] for name, values in options.items()}
    sets, variant = options.get("--set", []), one.get("--variant")
    if variant:
        get_variant(variant)
    if job == "evaluate":
        load_config(
            EvaluateConfig,
            None,
            sets,
            variant=variant,
            benchmarks=options.get("--benchmark"),
            judge__kind=one.get("--judge"),
            output=one.get("--output"),
        )
    elif job == "finetune" and "--corpus" in one:
        load_config(
            FinetuneConfig,
            None,
            sets,
            variant=variant,
            corpus=one["--corpus"],
            output=one.get("--output"),
            num_workers=one.get("--num-workers"),
        )
    elif job == "build_corpus":
        corpus_recipe.load_recipe(
            one["--recipe"], sets, teacher=one.get("--teacher"), output=one.get("--output")
        )
    elif job == "campaign":
        budget = one.get("--budget-gpu-hours")
        campaign_recipe.load_recipe(one["--recipe"], float(budget) if budget else None)


def check_ray(words: list[str]) -> None:
    """``ray COMMAND FLAGS``; what ``ray job submit`` submits is checked too."""
    from ray.scripts.scripts import cli

    command: Any = cli
    while isinstance(command, click.Group):
        name, words = words[0], words[1:]
        assert name in command.commands, f"ray knows no {name}"
        command = command.commands[name]
    end = words.index("--") if "--" in words else len(words)
    read_options(command, words[:end])
    check_paths(words[:end])
    submitted = words[end + 1 :]
    if submitted and submitted != ["$@"]:
        assert check_words(submitted), f"{submitted[0]} is not known"


def check_safe_r1(words: list[str]) -> None:
    """``safe-r1 COMMAND FLAGS``."""
    group: Any = typer.main.get_command(safe_r1_app)
    assert words[0] in group.commands, f"safe-r1 knows no {words[0]}"
    read_options(group.commands[words[0]], words[1:])


def check_kubectl(words: list[str]) -> None:
    """Folders of ``-k`` have a kustomization."""
    check_paths(words)
    for flag, value in itertools.pairwise(words):
        assert flag != "-k" or (ROOT / value / "kustomization.yaml").is_file(), f"nothing to apply in {value}"


def check_docker(words: list[str]) -> None:
    """``docker build``: the file, and the target in it."""
    check_paths(words)
    given = dict(itertools.pairwise(words))
    if target := given.get("--target"):
        assert f" AS {target}\n" in (ROOT / given["-f"]).read_text("utf-8"), f"no target {target}"


def check_sbatch(words: list[str]) -> None:
    """``sbatch [FLAGS] SCRIPT COMMAND``."""
    script = next(index for index, word in enumerate(words) if not word.startswith("-"))
    check_paths(words[: script + 1])
    assert check_words(words[script + 1 :]), f"{words[script + 1]} is not known"


def check_helm(words: list[str]) -> None:
    """``helm``: files of values."""
    check_paths(words)


def check_make(words: list[str]) -> None:
    """``make TARGET``."""
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), (
        f"no target {words[0]}"
    )


def check_paths(words: list[str]) -> None:
    """Every word that begins like a path of the repository is one."""
    for word in words:
        if re.match(r"(cluster|ray_jobs|safe_r1|tests)/", word):
            assert (ROOT / word).exists(), f"no {word}"


CHECKS = {
    "python": check_python,
    "ray": check_ray,
    "safe-r1": check_safe_r1,
    "kubectl": check_kubectl,
    "docker": check_docker,
    "helm": check_helm,
    "sbatch": check_sbatch,
    "make": check_make,
}
