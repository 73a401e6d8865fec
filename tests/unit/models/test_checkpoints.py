import huggingface_hub
import pytest

from safe_r1.errors import ModelError
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import get_variant


class TransportError(Exception):
    """An error of the hub's transport, which is none of the hub's own kinds."""


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **kwargs: object):
        raise TransportError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    with pytest.raises(ModelError, match=r"the hub cannot be reached \(TransportError\)"):
        prepare(get_variant("r1-distill-qwen-1.5b"))
