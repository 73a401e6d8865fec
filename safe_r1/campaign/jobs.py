"""The cluster's Jobs server: the only importer of ``ray.job_submission``."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_exponential

from safe_r1.errors import ClusterLostError, ResourceError
from safe_r1.progress import Progress
from safe_r1.resources import NODE_LABELS

logger = logging.getLogger(__name__)

Phase = Literal["starting", "running", "done", "failed", "stopped", "lost"]

_TAIL_CHARS = 20_000
# What the job's own last line is worth where it explains why the job ended.
_SAID_CHARS = 400
# A head that restarts is waited for.
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class JobView:
    """A job as the cluster sees it.

    Attributes:
        phase: ``starting`` until its driver runs; ``stopped`` by hand; ``lost`` where the cluster does not
            know it.
        exit_code: Of its driver; None where it never ended by itself, for example with its node.
        started_at, ended_at: Unix seconds.
        progress: The newest that it printed; None where it has printed none.
        said: Its last words.
    """

    phase: Phase
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    progress: Progress | None = None
    said: str = ""


class Jobs(Protocol):
    """Whoever runs jobs."""

    def submit(
        self, name: str, words: Sequence[str], labels: Mapping[str, str], about: Mapping[str, str]
    ) -> None:
        """Start a job under a name of its own; nothing where it is there already."""
        ...

    def look(self, name: str) -> JobView:
        """How it is."""
        ...


class RayJobs:
    """Jobs of a Ray cluster."""

    def __init__(
        self,
        address: str,
        working_dir: str | None,
        python: str,
        driver_labels: Mapping[str, str] | None = None,
    ):
        """Connect.

        Args:
            address: Of the dashboard, ``http://…``.
            working_dir: Folder or URI with the code; None: it is in the image.
            python: The interpreter of the jobs.
            driver_labels: Nodes on which drivers run.

        Raises:
            ResourceError: The cluster does not answer, or runs another version of Ray.
        """
        self._client, self._python = _connect(address), python
        self._env = {"working_dir": working_dir} if working_dir else {}
        self._driver_labels = dict(driver_labels or {})

    def submit(
        self, name: str, words: Sequence[str], labels: Mapping[str, str], about: Mapping[str, str]
    ) -> None:
        """See ``Jobs.submit``."""
        pairs = ",".join(f"{key}={value}" for key, value in labels.items())
        job = {
            "entrypoint": shlex.join([self._python, *words]),
            "submission_id": name,
            "metadata": dict(about),
            "runtime_env": self._env | ({"env_vars": {NODE_LABELS: pairs}} if pairs else {}),
            "entrypoint_label_selector": self._driver_labels or None,
        }

        def submit() -> None:
            # An answer that was lost on its way: the job may be there already.
            if self._info(name) is None:
                self._client.submit_job(**job)

        self._patiently(submit)

    def look(self, name: str) -> JobView:
        """See ``Jobs.look``."""
        info = self._patiently(lambda: self._info(name))
        if info is None:
            return JobView("lost")
        logs = self._logs(name)
        lines = [line for line in logs.splitlines() if line.strip()]
        said = (
            "" if info.status == "SUCCEEDED" else (lines[-1] if lines else info.message or "")[:_SAID_CHARS]
        )
        parsed = (Progress.parse(line) for line in reversed(lines))
        return JobView(
            _PHASES[str(info.status)],
            info.driver_exit_code,
            _seconds(info.start_time),
            _seconds(info.end_time),
            next((progress for progress in parsed if progress), None),
            said,
        )

    def _info(self, name: str) -> Any:
        """Ray's record of a job; None where there is none."""
        try:
            return self._client.get_job_info(name)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise

    def _logs(self, name: str) -> str:
        try:
            return self._client.get_job_logs(name)[-_TAIL_CHARS:]
        except (RuntimeError, OSError):  # requests' errors are OSErrors
            return ""  # its node is gone, and its log with it

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Call until the server answers.

        Raises:
            ResourceError: It did not for a long time, or it refused.
        """
        retrying = Retrying(
            retry=retry_if_exception(_is_passing),
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_exponential(max=30),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(call)
        except (RuntimeError, OSError) as error:
            kind = ClusterLostError if _is_passing(error) else ResourceError
            raise kind(f"the cluster's Jobs server: {str(error).splitlines()[0]}") from None


_PHASES: dict[str, Phase] = {
    "PENDING": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, OSError) or "status code 5" in str(error)


def _connect(address: str) -> Any:
    import ray
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        # `get_version` is that of the interface; the same route holds Ray's.
        theirs = client._do_request("GET", "/api/version").json()["ray_version"]
    except Exception as error:  # noqa: BLE001 - Ray raises ConnectionError, RuntimeError and requests' own here
        raise ResourceError(
            f"no Jobs server at {address}: {str(error).splitlines()[0]}; is the cluster up, and RAY_ADDRESS "
            "right?"
        ) from None
    if theirs != ray.__version__:
        raise ResourceError(
            f"the cluster runs Ray {theirs}, this is {ray.__version__}: use an image with the locked version"
        )
    return client


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
