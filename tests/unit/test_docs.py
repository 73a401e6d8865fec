"""The pages that a newcomer reads: short, complete, and held to the definitions."""

import re
from pathlib import Path

import pytest

from safe_r1.reference import PAGE, render

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "cluster/README.md",
    "ray_jobs/README.md",
    "safe_r1/README.md",
    "tests/bench/README.md",
]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def commands(page: str) -> list[str]:
    """The commands of a page's shell blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        line.split("  #")[0].split(" # ")[0] for block in BLOCK.findall(text) for line in block.splitlines()
    ]
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_the_chinese_page_has_the_same_commands():
    assert commands("README.zh-CN.md") == commands("README.md")


def test_no_command_needs_what_is_not_in_the_repository():
    assert "../shared" not in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "../shared" not in (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not ((ROOT / page).parent / link).exists()]
    assert missing == []


def test_the_reference_is_that_of_the_definitions():
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m safe_r1.reference`"


def test_every_flag_and_setting_says_what_it_is():
    rows = [line.split(" | ") for line in render().splitlines() if line.startswith("| `")]
    assert [row[0].strip("| ") for row in rows if not row[-1].strip(" |")] == []
