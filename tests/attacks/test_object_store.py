"""A run folder in an object store that fails one call in twenty and is slow with others: the same results."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs
from upath import UPath

from safe_r1.evaluation.results import completion_key, sample_key, verdict_key
from safe_r1.locks.run_lock import NAME, holding
from safe_r1.report.export import export_run
from safe_r1.runs import RunFolder, find_runs, remove
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA
from tests.s3_server import S3Server
from tests.unit.calibration.judged_runs import refusal_rows

STAGES = ("samples", "completions", "verdicts")
SERVERS: dict[str, S3Server] = {}


class ArrowS3(ArrowFSWrapper):
    """pyarrow's S3 client behind fsspec, as a user's own file system would be."""

    protocol = "arrows3"  # pyright: ignore
    cachable = False

    def __init__(self, **options: Any):
        client = fs.S3FileSystem(
            access_key="a",
            secret_key="b",
            region="us-east-1",
            scheme="http",
            endpoint_override=SERVERS["now"].url,
            allow_bucket_creation=True,
        )
        super().__init__(fs=client, **options)

    # fsspec's own wrapper leaves out the bucket.
    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(path).removeprefix("arrows3://").strip("/")

    @classmethod
    def _parent(cls, path: Any) -> str:  # pyright: ignore
        return cls._strip_protocol(path).rpartition("/")[0]


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    fsspec.register_implementation("arrows3", ArrowS3, clobber=True)


@pytest.fixture(params=[(0, 0), (20, 7)], ids=["sound", "flaky and slow"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    fail_every, slow_every = request.param
    made = S3Server(fail_every, slow_every, delay_s=0.05)
    SERVERS["now"] = made
    yield made
    made.close()


def write(folder: RunFolder) -> None:
    """A whole run, in many small shards, so that there are many calls."""
    folder.open({"seed": 0}, {"benchmark": "chisafetybench", "variant": {"name": "v"}})
    samples, completions, verdicts = refusal_rows(24)
    plans: list[tuple[str, list[dict[str, Any]], Any, Any]] = [
        ("samples", [each.to_row() for each in samples], SAMPLE_SCHEMA, sample_key),
        (
            "completions",
            [dataclasses.asdict(each) for each in completions],
            COMPLETION_SCHEMA,
            completion_key,
        ),
        ("verdicts", [dataclasses.asdict(each) for each in verdicts], VERDICT_SCHEMA, verdict_key),
    ]
    for stage, rows, schema, key in plans:
        for start in range(0, len(rows), 8):
            folder.write_shard(stage, rows[start : start + 8], schema, key)
    folder.publish()


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Every shard by its name, as it is read through the project's own path."""
    return {f"{stage}/{shard.name}": shard.read_bytes() for stage in STAGES for shard in folder.shards(stage)}


def test_a_run_is_the_same_as_on_a_disk(server: S3Server, tmp_path: Path):
    local = RunFolder(UPath(tmp_path / "out/main/v/chisafetybench"))
    write(local)
    [there] = [RunFolder(UPath("arrows3://bucket/out/main/v/chisafetybench"))]
    with holding():
        write(there)
        assert (there.path / NAME).exists()
    assert not (there.path / NAME).exists()
    assert contents(there) == contents(local)
    assert len(contents(local)) >= 12
    assert there.read_json("run.json") == local.read_json("run.json")
    assert there.is_complete
    # The same command again changes nothing.
    before = dict(server.objects)
    write(there)
    assert server.objects == before
    [found] = find_runs(UPath("arrows3://bucket/out"))
    assert found.path.name == "chisafetybench"
    for folder in (local, there):
        export_run(folder, ["csv"])
    assert (there.path / "results.csv").read_bytes() == (local.path / "results.csv").read_bytes()
    remove(there.path)
    assert not any("chisafetybench/" in name and not name.endswith("/") for name in server.objects)
    assert (server.num_failed > 0) is (server._fail_every > 0)
