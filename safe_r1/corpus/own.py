"""A user's own training file as a corpus, without a recipe of theirs."""

import re
from dataclasses import replace
from pathlib import PurePosixPath

from upath import UPath

from safe_r1.corpus.build import CorpusResult, build_plan
from safe_r1.corpus.plan import fingerprint, make_plan
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.judge.factory import plan_judge
from safe_r1.progress import ProgressCallback
from safe_r1.records.find import holds_data
from safe_r1.records.location import HUB_PREFIX, parse_hub
from safe_r1.runs import sha256
from safe_r1.settings import hide_credentials

_PROTECTED = "chisafetybench-sample"


def is_own_data(corpus: str) -> bool:
    """True for files, or a dataset of the hub; False for the folder of a corpus that was built."""
    if corpus.startswith(HUB_PREFIX):
        return True
    path = UPath(corpus)
    if path.is_dir():
        return not (path / "corpus.json").exists() and holds_data(path)
    return path.is_file() or "*" in corpus


def own_recipe(data: str) -> CorpusRecipe:
    """The recipe of a user's own file: every row that can be learned, but for near duplicates and copies of
    the shipped benchmark sample; nothing is judged.

    Args:
        data: File, folder, glob or URI, or ``hf:OWNER/NAME[@REVISION][:CONFIG][:SPLIT]``.
    """
    location: dict[str, object] = {"path": data if "://" in data else str(UPath(data).absolute())}
    if data.startswith(HUB_PREFIX):
        found = parse_hub(data, default_split="train")
        location = {name: getattr(found, name) for name in ("hub", "subset", "split", "revision")}
    stem = PurePosixPath(data).name.partition(".")[0]
    name = re.sub(r"[^a-z0-9._-]+", "-", hide_credentials(stem).lower()).strip("-._") or "own"
    source = {"name": name, **location, "kind": "general", "licence": "own", "trusted": True}
    return CorpusRecipe.model_validate(
        {
            "name": name,
            "description": "A user's own data.",
            "licences": ["own"],
            "sources": [source],
            "filters": {
                "reasoning": "optional",
                "min_prompt_chars": 1,
                "min_reasoning_chars": 0,
                "min_answer_chars": 1,
            },
            "decontamination": {"protected": [{"name": _PROTECTED, "benchmark": _PROTECTED}]},
        }
    )


def build_own(data: str, output: str, on_progress: ProgressCallback) -> CorpusResult:
    """Build the corpus of a user's own file below an output folder; one that is there is used again.

    Args:
        data: See ``own_recipe``.
        output: Folder or URI; the corpus has a folder in it that is named after its content.
        on_progress: Called with the progress of each stage.

    Raises:
        SafeR1Error: See ``build``.
    """
    plan = make_plan(own_recipe(data))
    identity = sha256(fingerprint(plan, plan_judge(plan.recipe.judge)))[:12]
    folder = UPath(output) / "corpora" / f"{plan.recipe.name}-{identity}"
    recipe = plan.recipe.model_copy(update={"output": str(folder)})
    return build_plan(replace(plan, recipe=recipe), on_progress)
