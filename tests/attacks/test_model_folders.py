"""Model folders: changed weights, and folders that are damaged or made to harm."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from safe_r1.errors import ModelError, RunConflictError
from safe_r1.models import file_hashes
from safe_r1.models.identity import folder_identity
from safe_r1.runs import SUCCESS, RunFolder

SIZE = 40_000_000
LONG_AGO = 1_600_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights larger than what earlier releases read whole."""
    folder = tmp_path_factory.mktemp("model")
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (SIZE, SIZE)
    weights = len(header).to_bytes(8, "little") + header + bytes(SIZE)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path / "cache"))
    # As if all files had been written long ago: what was written just now is not kept.
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)
    return tmp_path / "cache"


def flip(file: Path, place: int) -> None:
    """Change one bit of a file, in place and without a trace in its size and its time of modification."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=times)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, SIZE - 1))
def test_every_bit_of_the_weights_counts_though_size_and_time_stay(model: Path, place: int):
    before = folder_identity(model)
    flip(model / "model.safetensors", place)
    changed = folder_identity(model)
    flip(model / "model.safetensors", place)
    assert changed != before
    assert folder_identity(model) == before


def test_a_byte_that_no_block_of_earlier_releases_held_is_seen(model: Path):
    before = folder_identity(model)
    flip(model / "model.safetensors", 5_006_000)
    after = folder_identity(model)
    flip(model / "model.safetensors", 5_006_000)
    assert before.partition("+")[0] == after.partition("+")[0]
    assert before != after


def test_a_kept_hash_is_used_until_it_is_distrusted(model: Path, own_cache: Path, monkeypatch):
    honest = folder_identity(model)
    [record] = (own_cache / "hashes").iterdir()
    forged = record.read_text().replace(record.read_text().split('"blake3": "')[1][:64], "0" * 64)
    record.write_text(forged)
    assert folder_identity(model) != honest
    monkeypatch.setenv(file_hashes.TRUST_VARIABLE, "0")
    assert folder_identity(model) == honest
    monkeypatch.delenv(file_hashes.TRUST_VARIABLE)
    # What was found by reading is kept in place of the forged one.
    assert folder_identity(model) == honest


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"[]", b"null", b'{"size": "x"}', b"\xff\xfe"]
)
def test_a_damaged_record_is_read_over(model: Path, own_cache: Path, content: bytes):
    honest = folder_identity(model)
    [record] = (own_cache / "hashes").iterdir()
    record.write_bytes(content)
    assert folder_identity(model) == honest


def test_a_cache_that_is_a_file_costs_time_alone(model: Path, own_cache: Path):
    honest = folder_identity(model)
    (own_cache / "hashes").rename(own_cache / "other")
    (own_cache / "hashes").write_text("")
    assert folder_identity(model) == honest


def test_what_was_written_just_now_is_not_kept(model: Path, own_cache: Path, monkeypatch):
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", time.time_ns())
    folder_identity(model)
    assert not (own_cache / "hashes").exists()


def test_a_file_that_grows_while_it_is_read_is_refused(model: Path, monkeypatch):
    real = os.fstat

    def grown(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[6] += 1
        return os.stat_result(fields)

    monkeypatch.setattr(file_hashes.os, "fstat", grown)
    with pytest.raises(ModelError, match="changed while it was read"):
        file_hashes.hash_files([model / "model.safetensors"])


def test_the_hash_is_blake3_of_the_content(model: Path):
    from blake3 import blake3

    file = model / "model.safetensors"
    assert file_hashes.hash_files([file])[file] == blake3(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("complete", [False, True])
def test_a_run_of_the_release_before_goes_on_and_another_model_does_not(tmp_path: Path, complete: bool):
    sampled, other = (f"sha256:{hashlib.sha256(name).hexdigest()}" for name in (b"a", b"b"))
    now = {"variant": {"weights": f"{sampled}+blake3:{'1' * 64}"}}
    folder = RunFolder(UPath(tmp_path / "run"))
    folder.open({"variant": {"weights": sampled}}, {})
    if complete:
        folder.publish()
    written = (tmp_path / "run" / "run.json").read_bytes()
    folder.open(now, {})
    record = folder.read_json("run.json")
    assert record is not None
    # A finished run stays as it is; one that goes on is known by all bytes from here on.
    assert (tmp_path / "run" / SUCCESS).exists() is complete
    assert ((tmp_path / "run" / "run.json").read_bytes() == written) is complete
    assert complete or record["fingerprint"] == now
    with pytest.raises(RunConflictError, match=r"variant\.weights"):
        folder.open({"variant": {"weights": f"{other}+blake3:{'1' * 64}"}}, {})
    if not complete:
        with pytest.raises(RunConflictError, match=r"variant\.weights"):
            folder.open({"variant": {"weights": f"{sampled}+blake3:{'2' * 64}"}}, {})
