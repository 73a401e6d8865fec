import pytest

from safe_r1.errors import ConfigError
from safe_r1.resources import NODE_LABELS, node_labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", {}),
        ("safe-r1/group=gpu-eval", {"safe-r1/group": "gpu-eval"}),
        ("a=1, b=in(x)", {"a": "1", "b": "in(x)"}),
    ],
)
def test_node_labels(monkeypatch: pytest.MonkeyPatch, text: str, labels: dict[str, str]):
    monkeypatch.setenv(NODE_LABELS, text)
    assert node_labels() == labels


def test_labels_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NODE_LABELS, "a=1,gpu-eval")
    with pytest.raises(ConfigError, match="got 'gpu-eval'"):
        node_labels()
