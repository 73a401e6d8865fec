import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import safe_r1
from safe_r1.errors import ClusterLostError, ConfigError, ResourceError
from safe_r1.provenance import _make_reader, versions
from safe_r1.resources import NODE_LABELS, RayLocation, has_labels, init_ray, locate_ray, node_labels


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


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        ("a", True),
        ("b", False),
        ("!a", False),
        ("!b", True),
        ("in(b, a)", True),
        ("!in(b,c)", True),
        ("in(b)", False),
    ],
)
def test_nodes_are_compared_with_labels_as_ray_does(wanted: str, has: bool):
    assert has_labels({"group": "a", "zone": "x"}, {"group": wanted, "zone": "x"}) == has
    assert not has_labels({"group": "a"}, {"group": wanted, "zone": "x"})
    assert has_labels({}, {"group": "!a"})


def test_labels_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NODE_LABELS, "a=1,gpu-eval")
    with pytest.raises(ConfigError, match="got 'gpu-eval'"):
        node_labels()


@pytest.fixture
def ray_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `ray start` leaves its address; no other setting names a Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / "ray"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("named", "location"),
    [
        ("", RayLocation()),
        ("local", RayLocation()),
        ("10.0.0.1:6379", RayLocation("10.0.0.1:6379", is_named=True)),
    ],
)
def test_the_environment_names_the_ray(
    ray_folder: Path, monkeypatch: pytest.MonkeyPatch, named: str, location: RayLocation
):
    monkeypatch.setenv("RAY_ADDRESS", named)
    assert locate_ray() == location


def test_a_named_ray_comes_before_one_on_this_machine(ray_folder: Path, monkeypatch: pytest.MonkeyPatch):
    (ray_folder / "ray_current_cluster").write_text("127.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert locate_ray().address == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert locate_ray() == RayLocation()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "no address"])
def test_an_address_at_which_nothing_runs_is_of_a_dead_ray(ray_folder: Path, address: str):
    (ray_folder / "ray_current_cluster").write_text(address)
    assert locate_ray() == RayLocation(dead_address=address)


def test_an_address_that_another_program_took_is_of_a_dead_ray(ray_folder: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (ray_folder / "ray_current_cluster").write_text(address)
        assert locate_ray() == RayLocation(dead_address=address)


def test_a_local_ray_keeps_little_memory_for_objects(monkeypatch: pytest.MonkeyPatch):
    options = start_options(monkeypatch)
    assert options["address"] == "local"
    assert 0 < options["object_store_memory"] <= 2**30
    # Who sets Ray's own variable decides.
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION", "0.5")
    assert "object_store_memory" not in start_options(monkeypatch)


def test_a_local_ray_keeps_no_worker_that_is_not_used(monkeypatch: pytest.MonkeyPatch):
    settings = start_options(monkeypatch)["_system_config"]
    assert settings["prestart_worker_first_driver"] is False
    assert settings["num_workers_soft_limit"] == 0
    monkeypatch.setenv("RAY_num_workers_soft_limit", "4")
    assert "num_workers_soft_limit" not in start_options(monkeypatch)["_system_config"]


def test_a_ray_that_is_joined_keeps_its_own_resources(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    options = start_options(monkeypatch)
    assert options["address"] == "10.0.0.1:6379"
    started = {"num_cpus", "include_dashboard", "object_store_memory", "_system_config"}
    assert options.keys().isdisjoint(started)


def start_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of ``ray.init``."""
    options: dict[str, Any] = {}
    monkeypatch.setattr("ray.init", lambda **given: options.update(given))
    init_ray(num_cpus=8)
    return options


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("Invalid address format: x"), ResourceError, "at 10.0.0.1:6379: Invalid address"),
        (RuntimeError("Version mismatch:\n  Ray: 2.9.0"), ResourceError, "another version .*Ray: 2.9.0"),
        (ConnectionError("no answer\nin 30 s"), ClusterLostError, "no answer in 30 s$"),
    ],
)
def test_a_connection_that_fails_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ResourceError], said: str
):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(ResourceError, match=said) as caught:
        init_ray()
    assert type(caught.value) is kind


def test_what_a_node_says_of_itself_is_what_this_machine_has():
    own = versions(("torch", "vllm"))
    found = _make_reader()()
    # Sent to a node that has none of this package.
    assert cloudpickle.loads(cloudpickle.dumps(_make_reader()))() == found
    assert str(own["python"]).startswith(f"{found['Python']}.")
    assert found["safe_r1"].startswith(f"{safe_r1.__version__} (code ")
    for name in ("torch", "vllm"):
        assert found.get(name) == (own[name] or "").partition("+")[0] or None


@pytest.mark.slow
def test_what_is_left_of_a_job_starts_no_ray():
    """A job looks for a Ray and follows the start of its engines before it connects."""
    code = """
from ray_jobs.common import job, join_ray
from safe_r1.inference.startup import show_startup
with job("test") as console, show_startup(print):
    join_ray(console)
import ray
try:
    ray.put(1)
except Exception as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout[:9]) == (0, "refused: "), done.stderr
