"""Fixtures of the judges' tests: a local chat server, and packages that add judges."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chat_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # The user's cache has the replies of an earlier run of the tests.
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("SAFE_R1_JUDGE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package of one module, whose entry point ``NAME = MODULE:make`` adds a judge."""

    def add(package: str, name: str, source: str, target: str = "make") -> None:
        folder = tmp_path / package
        metadata = folder / f"{package}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{package}.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        entry_point = f"{name} = {package}:{target}"
        (metadata / "entry_points.txt").write_text(f"[safe_r1.judges]\n{entry_point}\n")
        monkeypatch.syspath_prepend(folder)

    return add
