"""The cluster's Jobs server: the only importer of ``ray.job_submission``."""

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_exponential

from safe_r1.errors import ClusterLostError, ResourceError
from safe_r1.progress import Progress
from safe_r1.redaction import hide_credentials
from safe_r1.resources import NODE_LABELS

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

T = TypeVar("T")
Phase = Literal["starting", "running", "done", "failed", "stopped", "lost"]

_TAIL_CHARS = 20_000
_LAST_LINE_CHARS = 400
# A head that restarts answers again within some minutes.
_RETRY_S = 600.0


@dataclass(frozen=True)
class JobView:
    """A job as the cluster sees it.

    Attributes:
        phase: ``starting`` until its driver runs; ``stopped`` by hand; ``lost`` where the cluster does not
            know it.
        exit_code: Of its driver; None where the driver did not end by itself, for example lost with its node.
        started_at, ended_at: Unix seconds.
        progress: The newest that it printed; None where it has printed none.
        last_line: The last line that it printed, which says why it failed; empty where it succeeded.
    """

    phase: Phase
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    progress: Progress | None = None
    last_line: str = ""


class Jobs(Protocol):
    """A service that runs jobs."""

    def submit(
        self, name: str, argv: Sequence[str], labels: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Start a job under a name of its own; nothing where there is already a job of that name.

        Args:
            name: Unique among all jobs of the cluster.
            argv: Arguments of the interpreter.
            labels: Of the nodes that do the job's work.
            metadata: Shown beside the job.
        """
        ...

    def view(self, name: str) -> JobView:
        """The job's present state."""
        ...


class RayJobs:
    """Jobs of a Ray cluster."""

    def __init__(
        self,
        address: str,
        working_dir: str | None,
        python: str,
        driver_labels: Mapping[str, str] | None = None,
        ray_address: str | None = None,
    ):
        """Connect.

        Args:
            address: Of the dashboard, ``http://…``.
            working_dir: Folder or URI with the code; None: it is in the image.
            python: The interpreter of the jobs.
            driver_labels: Nodes on which drivers run.
            ray_address: Of the head, which jobs join; None: the one that Ray finds on the driver's node.

        Raises:
            ResourceError: The cluster does not answer, or runs another version of Ray.
        """
        self._client = _connect(address)
        # Ray gives a job the address of any Ray that runs on the node, which may be another one's.
        self._command = [*(["env", f"RAY_ADDRESS={ray_address}"] if ray_address else []), python]
        self._env = {"working_dir": working_dir} if working_dir else {}
        self._driver_labels = dict(driver_labels or {})

    def submit(
        self, name: str, argv: Sequence[str], labels: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """See ``Jobs.submit``."""
        pairs = ",".join(f"{key}={value}" for key, value in labels.items())

        def submit() -> None:
            # Where the answer to an earlier try was lost, the job is there already.
            if self._info(name) is None:
                self._client.submit_job(
                    entrypoint=shlex.join([*self._command, *argv]),
                    submission_id=name,
                    metadata=dict(metadata),
                    runtime_env=self._env | ({"env_vars": {NODE_LABELS: pairs}} if pairs else {}),
                    entrypoint_label_selector=self._driver_labels or None,
                )

        self._retry(submit)

    def view(self, name: str) -> JobView:
        """See ``Jobs.view``."""
        info = self._retry(lambda: self._info(name))
        if info is None:
            return JobView("lost")
        # From the end: a log is long, and only its newest lines matter.
        lines = [line for line in self._logs(name).splitlines() if line.strip()]
        last_line = lines[-1] if lines else info.message or ""
        parsed = (Progress.parse(line) for line in reversed(lines))
        return JobView(
            phase=_PHASES[str(info.status)],
            exit_code=info.driver_exit_code,
            started_at=_seconds(info.start_time),
            ended_at=_seconds(info.end_time),
            progress=next((progress for progress in parsed if progress), None),
            # Of whatever ended the job, also of Ray's own messages. Hidden before it is cut.
            last_line="" if info.status == "SUCCEEDED" else hide_credentials(last_line)[:_LAST_LINE_CHARS],
        )

    def _info(self, name: str) -> "JobDetails | None":
        """Ray's record of a job; None where it has none."""
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

    def _retry(self, call: Callable[[], T]) -> T:
        """Call until the server answers.

        Raises:
            ResourceError: It did not for ten minutes, or it refused.
        """
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_delay(_RETRY_S),
            wait=wait_exponential(max=30),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(call)
        except (RuntimeError, OSError) as error:
            kind = ClusterLostError if _is_transient(error) else ResourceError
            raise kind(f"the cluster's Jobs server: {str(error).splitlines()[0]}") from None


_PHASES: dict[str, Phase] = {
    "PENDING": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, OSError) or "status code 5" in str(error)


def _connect(address: str) -> "JobSubmissionClient":
    import ray
    from ray.job_submission import JobSubmissionClient

    # Ray's client prefers RAY_ADDRESS to the address that it is given, and with "local" looks for any Ray.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
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
