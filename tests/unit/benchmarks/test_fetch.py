import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from safe_r1.benchmarks import find_benchmark, names
from safe_r1.benchmarks.chisafetybench import FILES
from safe_r1.benchmarks.fetch import Source, fetch
from safe_r1.errors import DataError, StorageError

CONTENTS = {name: f'["{name}"]'.encode() * 200 for name in FILES}
# Published files that the folder of real data does not hold.
NOT_HERE = ("harmbench", "jailbreakbench")
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


@dataclass
class Site:
    """A local server; ``half`` names files cut off in the middle, ``failures`` how often a file answers 503
    first.
    """

    url: str
    contents: dict[str, bytes]
    half: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[-1]
            site.requests.append(name)
            if site.failures[name] > 0 or name not in site.contents:
                status = 404 if name not in site.contents else 503
                site.failures[name] -= 1
                self.send_error(status)
                return
            content = site.contents[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in site.half else content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}/v1", dict(CONTENTS))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


def get(target: Path, url: str, attempts: int = 2) -> Path:
    return fetch(Source("it", url, SHA256, "v1"), target, timeout_s=5, attempts=attempts, max_wait_s=0.01)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_three_files_arrive_and_nothing_else(site: Site, tmp_path: Path):
    target = tmp_path / "deep" / "target"
    assert get(target, site.url) == target
    assert tree(target) == {f"v1/{name}": content for name, content in CONTENTS.items()}
    assert [path.name for path in target.iterdir()] == ["v1"]


def test_a_complete_copy_is_not_downloaded_again(site: Site, tmp_path: Path):
    get(tmp_path, site.url)
    site.requests.clear()
    get(tmp_path, site.url)
    assert site.requests == []


def test_a_passing_failure_of_the_server_is_tried_again(site: Site, tmp_path: Path):
    site.failures[FILES[1]] = 2
    get(tmp_path, site.url, attempts=3)
    assert len(tree(tmp_path)) == 3


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_hash_leaves_nothing_behind(site: Site, tmp_path: Path, name: str):
    site.contents[name] += b" "
    with pytest.raises(DataError, match=rf"{name}: sha256 is .*, expected {SHA256[name]}"):
        get(tmp_path / "deep" / "target", site.url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_half_a_download_leaves_nothing_behind(site: Site, tmp_path: Path, name: str):
    site.half.add(name)
    with pytest.raises(DataError, match=rf"{name}: download failed"):
        get(tmp_path / "target", site.url)
    assert list(tmp_path.iterdir()) == []
    assert site.requests.count(name) == 2


def test_a_missing_file_is_not_tried_twice(site: Site, tmp_path: Path):
    del site.contents[FILES[2]]
    with pytest.raises(DataError, match=rf"{FILES[2]}: download failed .*404"):
        get(tmp_path / "target", site.url)
    assert site.requests.count(FILES[2]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "ftp://127.0.0.1/v1", "no url"])
def test_no_network_leaves_nothing_behind(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError, match="nothing was written") as caught:
        get(tmp_path / "target", url)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(caught.value)


def test_a_failure_keeps_an_earlier_copy_and_a_success_replaces_it(site: Site, tmp_path: Path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / FILES[0]).write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    site.half.add(FILES[2])
    with pytest.raises(DataError):
        get(tmp_path, site.url)
    assert tree(tmp_path) == {f"v1/{FILES[0]}": b"damaged", "notes.txt": b"mine"}
    site.half.clear()
    get(tmp_path, site.url)
    assert tree(tmp_path) == {f"v1/{name}": content for name, content in CONTENTS.items()} | {
        "notes.txt": b"mine"
    }


def test_a_folder_with_other_files_is_not_replaced(site: Site, tmp_path: Path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(StorageError, match="holds something else"):
        get(tmp_path, site.url)
    assert tree(tmp_path) == {"v1/thesis.txt": b"mine"}
    assert site.requests == []


def test_a_target_that_cannot_be_written_is_one_line(site: Site, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match="choose another folder"):
        get(tmp_path / "file" / "below", site.url)
    with pytest.raises(StorageError, match="choose another folder"):
        get(tmp_path / "file", site.url)
    assert tree(tmp_path) == {"file": b"mine"}


def test_the_pinned_hashes_are_those_of_the_published_files(real_data: Path):
    sources = [
        source
        for name in names()
        if name not in NOT_HERE and (benchmark := find_benchmark(name)) and (source := benchmark.source)
    ]
    assert len(sources) == 4
    for source in sources:
        folder = real_data.parent / source.folder if source.folder != "v1" else real_data / "v1"
        found = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in source.files_sha256
        }
        assert found == source.files_sha256, source.name


@pytest.mark.parametrize("name", NOT_HERE)
def test_other_sources_are_pinned_too(name: str):
    benchmark = find_benchmark(name)
    assert benchmark is not None
    assert benchmark.source is not None
    # A branch or a tag can move, a commit cannot.
    assert re.search(r"/[0-9a-f]{40}/", benchmark.source.base_url)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in benchmark.source.files_sha256.values())
