"""Answers that stand beside the questions, as a variant without a model."""

import pytest

from safe_r1.errors import ConfigError, ModelError
from safe_r1.models.checkpoints import pin, prepare, with_size
from safe_r1.models.registry import get_variant
from safe_r1.serve.app import check_config
from safe_r1.serve.config import ServeConfig
from safe_r1.settings import load_config
from safe_r1.train.plan import plan_variant


@pytest.mark.parametrize(
    ("text", "name"),
    [("given", "given"), ("given:qwen3", "qwen3"), ("given:深度求索/R1 v2", "深度求索-R1-v2")],
)
def test_names(text: str, name: str):
    variant = get_variant(text)
    assert (variant.name, variant.is_given, variant.is_local) == (name, True, False)
    assert with_size(variant) == variant
    assert variant.style == "chat"
    assert "given" in str(variant.public())


@pytest.mark.parametrize("text", ["given:", "given: ", "given:..", "given:/"])
def test_a_name_that_is_none_is_one_line(text: str):
    with pytest.raises(ConfigError, match="given:NAME"):
        get_variant(text)


@pytest.mark.parametrize("text", ["given", "given:demo", "given:r1-distill-qwen-1.5b"])
@pytest.mark.parametrize("use", [prepare, pin, plan_variant])
def test_there_is_nothing_to_load(text: str, use: object):
    assert callable(use)
    with pytest.raises(ModelError, match="no weights to load") as error:
        use(get_variant(text))
    assert "\n" not in str(error.value)


def test_it_cannot_be_served():
    with pytest.raises(ConfigError, match="evaluated, not served"):
        check_config(load_config(ServeConfig, None, [], variants=("given:demo",)))


def test_no_other_name_is_one():
    assert not get_variant("demo").is_given
    with pytest.raises(ConfigError, match="unknown variant"):
        get_variant("givens")
