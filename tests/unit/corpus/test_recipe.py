import pytest

from safe_r1.corpus.recipe import CorpusRecipe, load_recipe, recipe_names
from safe_r1.errors import ConfigError

SOURCE = {
    "name": "a",
    "path": "a.jsonl",
    "kind": "safety",
    "language": "zh",
    "licence": "MIT",
    "mapping": {"prompt": "q", "response": "r"},
    "category": "gender",
}


def recipe(**changes) -> CorpusRecipe:
    return CorpusRecipe.model_validate({"name": "t", "licences": ["MIT"], "sources": [SOURCE]} | changes)


@pytest.mark.parametrize("name", recipe_names())
def test_the_shipped_recipes_are_whole(name: str):
    loaded = load_recipe(name, [])
    assert loaded.name == name
    assert all(source.why for source in loaded.sources)
    kinds = {part.kind for part in loaded.quotas or loaded.sources}
    assert kinds - {"general"} == {"safety", "reasoning", "benign-sensitive"}


def test_the_paper_recipe_is_half_safety_half_reasoning():
    loaded = load_recipe("paper-50k", [])
    shares = {
        kind: sum(q.share for q in loaded.quotas if q.kind == kind)
        for kind in ("safety", "reasoning", "benign-sensitive")
    }
    assert loaded.total == 50_000
    assert shares["reasoning"] == pytest.approx(0.5)
    assert shares["safety"] + shares["benign-sensitive"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licences": ["Apache-2.0"]}, "does not allow"),
        ({"sources": [SOURCE, SOURCE]}, "two sources"),
        ({"sources": [SOURCE | {"category": "gendr"}]}, "did you mean gender"),
        ({"sources": [SOURCE | {"mapping": {"response": "r"}}]}, "either `prompt` or `messages`"),
        ({"sources": [SOURCE | {"hub": "x/y"}]}, "either `path` or `hub`"),
        ({"total": 10}, "go together"),
        ({"total": 10, "quotas": [{"kind": "safety", "share": 0.5}]}, "add up to 0.5"),
        ({"teacher": "gpt"}, "template, llm or a URL"),
        ({"judge": {"kind": "llm"}}, "starts no engine for a judge"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(ConfigError, match="did you mean local"):
        load_recipe("locl", [])
    with pytest.raises(ConfigError, match="unknown setting 'totel'"):
        load_recipe("local", ["totel=5"])


def test_settings_change_a_recipe():
    assert (
        load_recipe(
            "local", ["total=100", "synthesis.candidates=5"], teacher="http://x/v1"
        ).synthesis.candidates
        == 5
    )
