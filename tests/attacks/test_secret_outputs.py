"""A planted secret in a run's settings and address, looked for in every byte of what is made of the run.

The settings are those of a run of an earlier release, which wrote them as they were given.
"""

import base64
import binascii
import gzip
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console as RichConsole
from typer.testing import CliRunner
from upath import UPath

from ray_jobs.common import Console
from safe_r1.calibration.calibrate import calibrate
from safe_r1.cli import app
from safe_r1.compare.run import compare
from safe_r1.config import JudgeConfig
from safe_r1.corpus.card import render_card as render_corpus_card
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.gate.policy import load_policy
from safe_r1.gate.render import to_json, to_junit, to_table
from safe_r1.gate.run import run_gate
from safe_r1.judge.endpoint import EndpointJudge
from safe_r1.judge.model import model_identity
from safe_r1.judge.policy import BUILT_IN
from safe_r1.report.trackers import make_trackers
from safe_r1.settings import load_config
from tests.attacks.test_secrets import SECRET, URLS
from tests.unit.calibration.judged_runs import refusal_rows, write_judged_run
from tests.unit.compare.runs import write_run
from tests.unit.report.test_trackers import ROWS, FakeMLflow, FakeWandb

HTTP = f"https://user:{SECRET}@host/v1?key={SECRET}"
STORE = f"s3://AKIA:{SECRET}@bucket/runs"
ADDRESS = f"memory://AKIA:{SECRET}@bucket/planted"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{100,}={0,2}")


def contents(data: bytes) -> Iterator[bytes]:
    """A file's bytes, and whatever is compressed in it: parts of XLSX, columns of Parquet, data of pages."""
    yield data
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            yield from (parts.read(name) for name in parts.namelist())
    elif data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        yield repr((table.to_pylist(), table.schema.metadata)).encode()
    for found in _BASE64.findall(data):
        try:
            yield gzip.decompress(base64.b64decode(found))
        except (binascii.Error, OSError, EOFError):
            continue


def has_secret(data: bytes) -> bool:
    texts = [SECRET.encode(), base64.b64encode(SECRET.encode())[:16], SECRET.encode("utf-16-le")]
    return any(text in content for content in contents(data) for text in texts)


def plant(run: Path) -> None:
    """Put secrets into ``run.json`` wherever settings stand."""
    info = json.loads((run / "run.json").read_text("utf-8"))
    judge = {
        "kind": HTTP,
        "headers": {"Authorization": f"Bearer {SECRET}"},
        "extra_body": {"api_key": SECRET},
    }
    info["config"] = {
        "output": STORE,
        "judge": judge,
        "further_judges": list(URLS),
        "endpoint": {"extra_body": {"inner": [{"clientSecret": SECRET}]}, "headers": {"x-own": SECRET}},
        "set": [f"judge.headers.Authorization={SECRET}"],
    }
    info["endpoint"] = {"model": "m", "host": HTTP, "adapted": {"top_k": f"refused by {HTTP}"}}
    info["data"] = STORE
    info.setdefault("fingerprint", {})["judge"] = {"kind": HTTP, "judge_url": HTTP}
    info["fingerprint"].setdefault("generation", {})["url"] = HTTP
    (run / "run.json").write_text(json.dumps(info), "utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for variant, skill in (("a", 0.4), ("b", 0.7)):
        plant(write_run(tmp_path / "runs", variant, skill=skill))
    return tmp_path / "runs"


def check(*folders: Path, wanted: set[str]) -> None:
    """No file holds the secret, but for the settings that it was planted in."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert wanted <= {file.name for file in files}
    for file in files:
        if file.name != "run.json":
            assert not has_secret(file.read_bytes()), file


def test_the_search_sees_into_files(tmp_path: Path):
    page = b'<script type="x">' + base64.b64encode(
        gzip.compress(f"{SECRET} ".encode() * 20 + bytes(range(256)))
    )
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("part", f"{SECRET} " * 20)
    assert has_secret(page + b"</script>")
    assert has_secret((tmp_path / "x.zip").read_bytes())
    assert not has_secret(b"nothing")


def test_reports_and_tables_of_a_run(runs: Path):
    for run in runs.glob("*/*/*"):
        assert has_secret((run / "run.json").read_bytes())
        rewrite_report(str(run))
        # It was written again, for the hash of its rows.
        assert not has_secret((run / "run.json").read_bytes())
        plant(run)
    result = CliRunner().invoke(app, ["export", str(runs)])
    assert result.exit_code == 0, result.output
    check(runs, wanted={"report.md", "report.html", "results.csv", "results.xlsx", "results.parquet"})


def test_comparisons_and_gates(runs: Path, tmp_path: Path):
    report = compare([str(runs)], "a", str(tmp_path / "report"))
    assert SECRET not in report.to_text()
    policy = load_policy(None, ["accuracy=99"], [], None, None)
    decided = run_gate([str(runs / "main" / "a")], policy, str(runs / "main" / "b"))
    shown = RichConsole(record=True, width=300, file=io.StringIO())
    shown.print(to_table(decided))
    for text in (shown.export_text(), to_json(decided), to_junit(decided)):
        assert SECRET not in text
    check(tmp_path / "report", wanted={"report.md", "report.html", "comparisons.csv", "flips.csv"})


def test_a_difference_of_settings_is_told_without_them(runs: Path, tmp_path: Path):
    other = next(runs.glob("*/b/*")) / "run.json"
    other.write_text(
        other.read_text("utf-8").replace("https://user", "https://other.host/v1?x=1&y=https://user")
    )
    report = compare([str(runs)], "a", str(tmp_path / "report"), allow_mismatch=True)
    assert SECRET not in report.to_text() + repr(report.data.problems)
    check(tmp_path / "report", wanted={"report.md", "report.html"})


def test_label_pages_and_corrections(tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", refusal_rows(60))
    plant(run)
    result = CliRunner().invoke(app, ["label-sample", str(run), "--n", "40"])
    assert result.exit_code == 0, result.output
    assert SECRET not in calibrate(str(run), num_draws=20).to_text()
    check(run, wanted={"label.html", "label.csv", "label.xlsx", "record.json", "calibration.json"})


def test_addresses_with_credentials_are_in_no_output(runs: Path, tmp_path: Path):
    """Runs in a store whose URI holds a key: links, problems and what commands print."""
    place = UPath(ADDRESS)
    for file in runs.rglob("*"):
        if file.is_file():
            target = place / file.relative_to(runs).as_posix()
            target.write_bytes(file.read_bytes())
    (place / "main/a/chisafetybench-sample/_SUCCESS").unlink()
    commands = (
        ["compare", ADDRESS, "--baseline", "b", "--output", f"{ADDRESS}-report"],
        ["report", f"{ADDRESS}/main/a/chisafetybench-sample"],
        ["report", f"{ADDRESS}/main/b/chisafetybench-sample"],
        ["export", ADDRESS, "--format", "csv", "--output", f"{ADDRESS}-tables"],
        ["export", f"{ADDRESS}/nothing"],
        ["label-sample", f"{ADDRESS}/main/b/chisafetybench-sample", "--n", "40"],
        ["gate", f"{ADDRESS}/main/b", "--min", "accuracy=1"],
    )
    for arguments in commands:
        result = CliRunner().invoke(app, arguments)
        assert SECRET not in f"{result.output}{result.exception}", arguments
    (place / "main/a/chisafetybench-sample/_SUCCESS").write_bytes(b"")
    found = compare([ADDRESS], "b", f"{ADDRESS}-report")
    assert SECRET not in found.to_text()
    written = [file for file in place.fs.find(place.parent.path) if not file.endswith("run.json")]
    assert any(file.endswith("report.html") and "-report" in file for file in written)
    assert any(file.endswith("results.csv") for file in written)
    for file in written:
        assert not has_secret(UPath(f"memory://{file}").read_bytes()), file
    place.fs.rm(place.parent.path, recursive=True)


def test_trackers_get_settings_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow, wandb = FakeMLflow(), FakeWandb()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    given = {"corpus": STORE, "safety_check": {"judge": {"kind": HTTP, "headers": {"a": SECRET}}}, "seed": 3}
    for tracker in make_trackers(["mlflow", "wandb", "tensorboard"], "main", UPath(tmp_path), given):
        tracker.log_table("rates", ROWS)
        tracker.close()
    assert SECRET not in repr((mlflow.calls, wandb.settings, wandb.logged))
    assert wandb.settings["config"]["seed"] == 3
    check(tmp_path, wanted=set())


def test_cards_of_models_and_corpora():
    from safe_r1.models.registry import get_variant
    from safe_r1.train.card import render_card
    from safe_r1.train.config import FinetuneConfig

    train = {"num_rows_packed": 1, "num_sequences": 1}
    info: dict[str, Any] = {
        "data": {"train": train},
        "corpus_sha256": "0",
        "num_steps": 1,
        "exported_step": 1,
        "plan": {"layout": {"states": "fp32"}},
        "first_validation": {},
        "validation": {},
    }
    config = load_config(FinetuneConfig, None, [], variant=STORE, corpus=STORE)
    assert SECRET not in render_card(get_variant(STORE), config, info, [{"step": 1, "loss": 1.0}])
    source = {"name": "own", "path": STORE, "licence": "x", "kind": "safety"}
    recipe = CorpusRecipe.model_validate(
        {"name": "c", "licences": ["x"], "sources": [source], "teacher": HTTP}
    )
    counts: Any = {
        "num_read": 1,
        "num_kept": 1,
        "num_dropped": 0,
        "splits": {"train": 1},
        "kept": [{"kind": "safety", "language": "zh", "category": "-", "source": "own", "rows": 1}],
        "dropped": [],
        "read": {"own": 1},
        "lengths": {},
    }
    assert SECRET not in render_corpus_card(recipe, counts)


def test_a_terminal_shows_none(tmp_path: Path):
    out = io.StringIO()
    Console(out, tmp_path / "x.log").show(f"output {STORE}, judge {HTTP}")
    assert "bucket" in out.getvalue()
    assert SECRET not in out.getvalue()


def identity(**body: Any) -> str:
    return EndpointJudge(JudgeConfig(kind="https://host/v1", model="m", extra_body=body)).identity


SAMPLING = {"temperature": 0.0, "max_tokens": 1024}


@pytest.mark.parametrize("body", [{}, {"top_k": 1}, {"more": [{"a": "https://host/v1"}], "b": [1, None]}])
def test_the_identity_of_a_judge_without_secrets_is_what_it_was(body: dict[str, Any]):
    settings = SAMPLING | ({"extra_body": body} if body else {})
    assert identity(**body) == model_identity("m", settings, policy=BUILT_IN)


@pytest.mark.parametrize(
    "secret",
    [
        lambda key: {"api_key": key},
        lambda key: {"auth": {"password": key}},
        lambda key: {"inner": [{"accessToken": key}]},
        lambda key: {"callback": f"https://user:{key}@host/x?sig={key}"},
    ],
)
def test_the_identity_of_a_judge_does_not_depend_on_a_secret(secret: Any):
    # Nobody can try keys against it.
    assert identity(**secret(SECRET)) == identity(**secret("1234"))
    assert identity(**secret(SECRET), top_k=1) != identity(**secret(SECRET))
