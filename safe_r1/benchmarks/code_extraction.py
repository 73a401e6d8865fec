"""Chooses the program of an answer among its blocks.

Models show drafts, helpers, examples of use and outputs in blocks of their own. What is meant follows from
what the blocks define, read and use.
"""

import ast
import builtins
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from safe_r1.benchmarks.code_blocks import read_blocks

_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bfileinput\b|\bopen\s*\(\s*0|\bos\.read\s*\(\s*0")
_PRINTS = re.compile(r"\bprint\s*\(|\bstdout\b")
_BUILTINS = frozenset(dir(builtins))
# What a module may hold without doing anything when it is run.
_DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)


@dataclass(frozen=True)
class _Names:
    """Names of a block of code.

    Attributes:
        defined: Functions, classes, imports and variables of the module.
        needed: Used, and bound nowhere in the block.
        runs: It does something when it is run.
    """

    defined: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    runs: bool = True


def extract_code(answer: str, function: str | None = None) -> str | None:
    """The program of an answer; None without a closed block of Python, or of no language.

    Of several blocks the last that defines ``function`` is meant, or else the last that reads input, or else
    the last. Blocks before it that define what it uses come along, and so does a later one that starts it.
    Text without a fence is no code.

    Args:
        answer: The model's answer, without its reasoning.
        function: Function or method that is asked for; None for a program that reads standard input.
    """
    blocks = [block for block in read_blocks(answer) if block.code]
    python = [block.code for block in blocks if block.language == "python"]
    unnamed = [block.code for block in blocks if not block.language]
    is_unnamed = function is not None and (
        any(_defines(code, function) for code in unnamed)
        and not any(_defines(code, function) for code in python)
    )
    codes = unnamed if is_unnamed else python or unnamed
    return _with_parts(codes, _chosen(codes, function), is_program=function is None) if codes else None


def _chosen(codes: Sequence[str], function: str | None) -> int:
    fitting = [
        place
        for place, code in enumerate(codes)
        if (_READS.search(code) if function is None else _defines(code, function))
    ]
    return fitting[-1] if fitting else len(codes) - 1


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return re.search(rf"\bdef\s+{name}\s*\(|^{name}\s*=", code, re.M) is not None


def _with_parts(codes: Sequence[str], chosen: int, *, is_program: bool) -> str:
    """The chosen block with the blocks that belong to it."""
    code = codes[chosen]
    names = _names(code)
    for earlier in reversed(codes[:chosen]):
        found = _names(earlier)
        # A draft that is a program of its own would take the input.
        is_draft = _READS.search(earlier) and _PRINTS.search(earlier) and found.runs
        if names.needed & found.defined and not is_draft:
            code = f"{earlier}\n{code}"
            defined = names.defined | found.defined
            names = _Names(defined, (names.needed | found.needed) - defined, names.runs or found.runs)
    if is_program and not names.runs:
        for later in codes[chosen + 1 :]:
            found = _names(later)
            if found.runs and found.needed & names.defined:
                return f"{code}\n{later}"
    return code


def _names(code: str) -> _Names:
    """The names of a block; none where it is no Python."""
    try:
        with warnings.catch_warnings():
            # Such as of "\d" in a string: nobody's concern here.
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Names()
    used: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        else:
            bound.update(_bound_by(node))
    defined = {name for statement in tree.body for name in _defined_by(statement)}
    return _Names(
        frozenset(defined),
        frozenset(used - bound - _BUILTINS),
        any(not (isinstance(each, _DEFINITIONS) or _is_docstring(each)) for each in tree.body),
    )


def _bound_by(node: ast.AST) -> list[str]:
    """Names that a node binds by itself."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [(each.asname or each.name).partition(".")[0] for each in names]
        case ast.arg(arg=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            return [name]
    return []


def _defined_by(statement: ast.stmt) -> list[str]:
    """Names that a statement of the module defines."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return names or _bound_by(statement)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
