"""What is made of the Jobs server's answers; a real server is in tests/integration."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray
import requests
from ray.job_submission import JobStatus

from safe_r1.campaign.jobs import RayJobs
from safe_r1.errors import ResourceError
from safe_r1.progress import Progress
from safe_r1.resources import NODE_LABELS
from tests.chat_server import Server as HttpServer


class Server:
    """Stands for Ray's client."""

    version = ray.__version__
    outage: ClassVar[list[Exception]] = []

    def __init__(self, address: str):
        self.jobs: dict[str, Any] = {}
        self.logs: dict[str, str] = {}

    def _do_request(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/api/version")
        return SimpleNamespace(json=lambda: {"version": "4", "ray_version": self.version})

    def submit_job(self, **job: Any) -> None:
        self.jobs[job["submission_id"]] = SimpleNamespace(
            status=JobStatus.PENDING, driver_exit_code=None, start_time=1000, end_time=None, message="", **job
        )

    def get_job_info(self, name: str) -> Any:
        if self.outage:
            raise self.outage.pop()
        if name not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist")
        return self.jobs[name]

    def get_job_logs(self, name: str) -> str:
        if name not in self.logs:
            raise RuntimeError("the node of its log is gone")
        return self.logs[name]


def server_of(jobs: RayJobs) -> Server:
    client: Any = jobs._client
    return client


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Server)
    return Server


def test_a_job_is_submitted_once_with_its_labels(server: type[Server]):
    jobs = RayJobs("http://head:8265", "gcs://code.zip", "python", {"safe-r1/group": "cpu"})
    for _ in range(2):
        jobs.submit(
            "a-1", ["ray_jobs/x.py", "--set", "a={b: 1}"], {"safe-r1/group": "gpu-eval"}, {"step": "x"}
        )
    made = server_of(jobs).jobs["a-1"]
    assert made.entrypoint == "python ray_jobs/x.py --set 'a={b: 1}'"
    assert made.entrypoint_label_selector == {"safe-r1/group": "cpu"}
    jobs = RayJobs("http://head:8265", None, "python", ray_address="10.0.0.1:6379")
    jobs.submit("a-1", ["x.py"], {}, {})
    assert server_of(jobs).jobs["a-1"].entrypoint == "env RAY_ADDRESS=10.0.0.1:6379 python x.py"
    assert made.runtime_env == {
        "working_dir": "gcs://code.zip",
        "env_vars": {NODE_LABELS: "safe-r1/group=gpu-eval"},
    }


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (JobStatus.PENDING, "starting"),
        (JobStatus.RUNNING, "running"),
        (JobStatus.SUCCEEDED, "done"),
        (JobStatus.FAILED, "failed"),
        (JobStatus.STOPPED, "stopped"),
    ],
)
def test_how_a_job_is(server: type[Server], status: JobStatus, phase: str):
    jobs = RayJobs("http://head:8265", None, "python")
    jobs.submit("a-1", ["x.py"], {}, {})
    info = server_of(jobs).jobs["a-1"]
    info.status, info.driver_exit_code, info.end_time = status, 2, 5000
    assert jobs.view("a-1").progress is None  # no log: its node is gone
    server_of(jobs).logs["a-1"] = (
        "evaluate: demo on x\ncompletions: 3/48 rows\ncompletions: 16/48 rows, 4,096 tokens\nfailed: oh\n"
    )
    view = jobs.view("a-1")
    assert (view.phase, view.exit_code, view.started_at, view.ended_at) == (phase, 2, 1.0, 5.0)
    assert view.progress == Progress("completions", 16, 48, tokens=4096)
    assert view.last_line == ("" if phase == "done" else "failed: oh")


def test_a_cluster_that_does_not_know_the_job(server: type[Server]):
    assert RayJobs("http://head:8265", None, "python").view("nothing").phase == "lost"


def test_a_head_that_restarts_is_waited_for(server: type[Server], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    jobs = RayJobs("http://head:8265", None, "python")
    broken = [
        requests.ConnectionError("refused"),
        RuntimeError("Request failed with status code 503: starting"),
    ]
    monkeypatch.setattr(server, "outage", [*broken])
    jobs.submit("a-1", ["x.py"], {}, {})
    monkeypatch.setattr(server, "outage", [*broken])
    assert jobs.view("a-1").phase == "starting"


def test_a_server_that_refuses_is_one_clear_line(server: type[Server], monkeypatch: pytest.MonkeyPatch):
    jobs = RayJobs("http://head:8265", None, "python")
    monkeypatch.setattr(
        server, "outage", [RuntimeError("Request failed with status code 400: no\nTraceback")]
    )
    with pytest.raises(
        ResourceError, match=r"the cluster's Jobs server: Request failed with status code 400: no$"
    ):
        jobs.view("a-1")


def test_another_version_of_ray_is_refused(server: type[Server], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "version", "2.9.0")
    with pytest.raises(ResourceError, match=r"the cluster runs Ray 2\.9\.0, this is "):
        RayJobs("http://head:8265", None, "python")


def test_the_server_that_was_chosen_is_asked_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    """With RAY_ADDRESS=local Ray's client would look for any Ray of this machine, and refuse two."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    server = HttpServer()
    server.models = {"version": "4", "ray_version": ray.__version__}
    RayJobs(server.url.removesuffix("/v1"), None, "python")
    assert set(server.paths) == {"/api/version"}
    server.http.shutdown()
    server.http.server_close()
