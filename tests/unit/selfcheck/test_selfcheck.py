"""Does a module that does not import get found and named, and are all of a role's imports looked at?"""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from safe_r1.selfcheck.__main__ import main
from safe_r1.selfcheck.check import check_imports
from safe_r1.selfcheck.roles import ENTRY_POINTS, Role, follow, imports_of_role
from safe_r1.selfcheck.source import Import, find_module, read_imports

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    find_module.cache_clear()
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import a.b", [("a.b", None, False)]),
        ("from a import b, c as d", [("a", "b", False), ("a", "c", False)]),
        ("from . import b", [("pack", "b", False)]),
        ("from ..x import b", [("x", "b", False)]),
        ("def f():\n  class C:\n    import a", [("a", None, False)]),
        (
            "import importlib\nm = importlib.import_module('a.b')",
            [("importlib", None, False), ("a.b", None, False)],
        ),
        ("if TYPE_CHECKING:\n  import a\nelse:\n  import b", [("b", None, False)]),
        ("try:\n  import a\nexcept ImportError:\n  import b", [("a", None, True), ("b", None, True)]),
        ("try:\n  import a\nexcept (OSError, ModuleNotFoundError):\n  pass", [("a", None, True)]),
        ("try:\n  import a\nexcept OSError:\n  import b", [("a", None, False), ("b", None, False)]),
        ("try:\n  import a\nexcept ImportError:\n  raise SystemExit from None", [("a", None, False)]),
        (
            "with contextlib.suppress(ImportError):\n  import a\nimport b",
            [("a", None, True), ("b", None, False)],
        ),
    ],
)
def test_imports_are_read(tmp_path, text, expected):
    file = write(tmp_path, "pack/user.py", text)
    found = read_imports("pack.user", file)
    assert [(each.module, each.name, each.is_optional) for each in found] == expected


def test_a_module_that_does_not_import_is_named(folder):
    write(folder, "broken_by_library.py", "raise OSError('libcudart.so.13: cannot open\\nshared object')")
    write(folder, "healthy_library/__init__.py", "from healthy_library import part\nvalue = 1")
    write(folder, "healthy_library/part.py", "")
    write(folder, "importing_own/__init__.py", "import broken_by_library")
    user = "importing_own.user"
    report = check_imports(
        [
            Import("importing_own", None, user, 1),
            Import("broken_by_library", "thing", user, 7),
            Import("healthy_library", "value", user, 8),
            Import("healthy_library", "part", user, 9),
            Import("healthy_library", "gone", user, 10),
            Import("not_there_at_all", None, user, 11),
        ],
        own=["importing_own"],
    )
    assert [str(failure) for failure in report.failures] == [
        "broken_by_library.thing: OSError: libcudart.so.13: cannot open shared object; imported by "
        "importing_own.user:7, and 1 more imports end in it",
        "healthy_library.gone: ImportError: cannot import name 'gone' from 'healthy_library'; imported by "
        "importing_own.user:10",
        "not_there_at_all: ModuleNotFoundError: No module named 'not_there_at_all'; imported by "
        "importing_own.user:11",
    ]
    assert report.counts == {"healthy_library": 2}


def test_the_broken_library_is_named_and_not_those_that_import_it(folder):
    write(folder, "broken_inside.py", "raise OSError('libcudart')")
    write(folder, "imports_the_broken_one.py", "import broken_inside")
    imports = [Import(name, None, "user", 1) for name in ("imports_the_broken_one", "broken_inside")]
    for given in (imports, imports[::-1]):
        [failure] = check_imports(given).failures
        assert str(failure).startswith("broken_inside: OSError: libcudart; imported by user:1, and 1 more")


def test_an_optional_import_may_be_absent_but_not_broken(folder):
    write(folder, "lacks_a_library.py", "import another_that_is_not_there")
    write(folder, "old_library.py", "")
    report = check_imports(
        [
            Import("not_installed", "x", "user", 1, is_optional=True),
            Import("old_library", "new_name", "user", 2, is_optional=True),
            Import("old_library.new_module", None, "user", 3, is_optional=True),
            Import("lacks_a_library", None, "user", 4, is_optional=True),
        ]
    )
    assert [failure.imports[0].line for failure in report.absent] == [1, 2, 3]
    assert [failure.imports[0].line for failure in report.failures] == [4]


def test_what_one_importer_needs_is_not_optional():
    optional = Import("not_installed", None, "user", 1, is_optional=True)
    report = check_imports([optional, Import("not_installed", None, "user", 2)])
    assert [failure.imports[0].line for failure in report.failures] == [2]


def test_all_of_the_project_is_reached():
    """Every module but the tools of development; a role's jobs are in it by their entry points alone."""
    files = [*(ROOT / "safe_r1").rglob("*.py"), *(ROOT / "ray_jobs").glob("*.py")]
    names = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    }
    reached = {"safe_r1", "ray_jobs"}
    for each in imports_of_role("all"):
        reached |= {each.module, f"{each.module}.{each.name}"}
    reached |= {name.rpartition(".")[0] for name in reached}
    missing = {name for name in names - reached if not name.startswith("safe_r1.selfcheck")}
    tools = {
        "safe_r1.filing",
        "safe_r1.filing.bank_card",
        "safe_r1.judge.train_prompt_risk",
        "safe_r1.reference",
        "safe_r1.train.communication",
    }
    assert missing <= tools, missing


def test_every_job_is_the_entry_point_of_a_role():
    jobs = {f"ray_jobs.{file.stem}" for file in (ROOT / "ray_jobs").glob("*.py")}
    jobs -= {"ray_jobs.__init__", "ray_jobs.common", "ray_jobs.ray_loss", "ray_jobs.supervise"}
    assert {name for names in ENTRY_POINTS.values() for name in names} >= jobs


@pytest.mark.parametrize(
    ("role", "module", "name"),
    [
        ("serving", "vllm.entrypoints.launchers.cli_args", "FrontendArgs"),
        ("serving", "vllm.entrypoints.openai.api_server", "init_app_state"),
        ("evaluation", "vllm.sampling_params", "RequestOutputKind"),
        ("evaluation", "vllm", None),
        ("training", "torchao.optim", "AdamW8bit"),
        ("training", "torchao.float8", "convert_to_float8_training"),
        ("training", "torch.nn.attention.varlen", "varlen_attn"),
        ("training", "peft", None),
        ("corpus", "opencc", "OpenCC"),
    ],
)
def test_a_role_has_the_imports_of_its_engine(role: Role, module: str, name: str | None):
    found = [each for each in imports_of_role(role) if (each.module, each.name) == (module, name)]
    assert found, f"{role} does not import {module}"
    assert not all(each.is_optional for each in found)


def test_a_fallback_is_optional():
    (errors,) = [each for each in imports_of_role("serving") if each.module == "vllm.v1.engine.exceptions"]
    assert errors.is_optional


def test_imports_are_followed_without_importing(folder):
    """Through this project's modules, functions' imports too; other packages are not looked into."""
    write(
        folder, "safe_user.py", "import safe_r1.train.optim\nimport never_to_be_imported\nraise SystemError"
    )
    found = {(each.module, each.importer) for each in follow(["safe_user"])}
    assert ("never_to_be_imported", "safe_user") in found
    assert ("torchao.optim", "safe_r1.train.optim") in found
    assert not any(importer.startswith("torch") for _, importer in found)


def test_the_command_names_a_broken_library(folder, monkeypatch):
    """The whole role with a broken torchao is ``tests/integration/test_selfcheck_command.py``."""
    write(
        folder,
        "job_of_a_role.py",
        "def run():\n    from broken_in_a_role import Thing\nimport fine_in_a_role",
    )
    write(folder, "broken_in_a_role.py", "raise OSError('libcudart.so.13: cannot open shared object file')")
    write(folder, "fine_in_a_role.py", "")
    monkeypatch.setitem(ENTRY_POINTS, "training", ("job_of_a_role",))
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--role", "training"])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if "FAILED" in line]
    assert "broken_in_a_role.Thing: OSError: libcudart.so.13" in line
    assert "imported by job_of_a_role:2" in line
    assert "1 failed" in result.output
    write(folder, "job_of_a_role.py", "import fine_in_a_role")
    assert CliRunner().invoke(app, ["--role", "training"]).exit_code == 0
