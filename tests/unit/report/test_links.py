"""Texts in Markdown reports: no renderer makes a link of an address that a model wrote."""

import re
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from safe_r1.report.text import markdown_text, one_line

# What GitHub's and other renderers make links of in text that has no markup.
LINKABLE = re.compile(r"//|\bwww\.|[a-z0-9.+_-]@[a-z0-9_-]+\.[a-z0-9]", re.IGNORECASE | re.ASCII)
LINK_PARTS = [
    "https://evil.example/a?b=1&c=(d)",
    "HTTP://X.cn",
    "ftp://a.b",
    "https://例子.中国/路径",
    "www.evil.example",
    "//evil.example",
    "a.b+c@mail.example.com",
    "mailto:x@y.zz",
    "lexicon@1a2b3c4d",
    "看",
    "。",
    " ",
    "(",
    "`",
    "\\",
    "|",
    "<",
    "*",
    "_",
    "\n",
    "a",
]


@pytest.mark.slow
@given(st.lists(st.sampled_from(LINK_PARTS), max_size=8).map("".join))
@settings(max_examples=400, deadline=None)
def test_no_address_is_left_for_a_renderer_to_link(text: str):
    parser = MarkdownIt("commonmark").enable("table")
    [inline] = parser.parseInline(markdown_text(text))
    tokens = inline.children or []
    assert {token.type for token in tokens} <= {"text", "code_inline"}
    assert "".join(token.content for token in tokens) == one_line(text)
    for is_text, run in groupby(tokens, key=lambda token: token.type == "text"):
        if is_text:
            assert not LINKABLE.search("".join(token.content for token in run))


def test_addresses_in_a_table_stay_in_their_cell():
    cell = markdown_text("见 https://evil.example/a|b 与 x@y.zz")
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| {cell} | c |\n")
    assert rendered.count("<td>") == 2
    assert "<a " not in rendered
    assert "<code>https://evil.example/a</code>|b" in rendered
