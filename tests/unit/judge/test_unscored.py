"""Every reason without a label is a member of ``Unscored``: no other text stands for one in the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import safe_r1
from safe_r1.schema import Unscored

PACKAGE = Path(safe_r1.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def is_reason(node: ast.expr) -> bool:
    """``x.unscored_reason``, ``row["unscored_reason"]`` or the name alone."""
    if isinstance(node, ast.Attribute):
        return node.attr == "unscored_reason"
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "unscored_reason"
    return isinstance(node, ast.Name) and node.id == "unscored_reason"


def reasons(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that give a reason, or that a reason is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (each.value for each in node.keywords if each.arg == "unscored_reason")
            if isinstance(node.func, ast.Name) and node.func.id == "Judgement":
                yield from node.args[1:2]
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "unscored_reason":
                    yield value
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_reason, sides)):
                yield from sides


def texts(node: ast.expr) -> Iterator[str]:
    """Literals in an expression, save the keys of subscripts and the arguments of calls."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not isinstance(node, ast.Subscript | ast.Call):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from texts(child)


def test_no_reason_is_a_literal():
    found = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {text!r}"
        for path, tree in TREES.items()
        for node in reasons(tree)
        for text in texts(node)
    }
    assert not found


def test_the_scan_sees_reasons():
    """In expressions of this form, so that the test above cannot pass by seeing nothing."""
    tree = ast.parse(
        'Judgement(None, "a" if x else "b")\n'
        'Verdict(unscored_reason="c")\n'
        'row = {"unscored_reason": "d"}\n'
        'row["unscored_reason"] != "e"\n'
        'verdict.unscored_reason in ("f", "g")\n'
    )
    assert {text for node in reasons(tree) for text in texts(node)} == set("abcdefg")
    assert sum(1 for tree in TREES.values() for _ in reasons(tree)) >= 10


def test_every_member_is_used():
    used = {
        node.attr
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Unscored"
    }
    assert used == set(Unscored.__members__)
