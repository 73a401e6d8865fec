"""Collects the regular expressions of the package from its source, and from what its modules hold."""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safe_r1
from safe_r1.attacks import words
from safe_r1.benchmarks import options
from safe_r1.benchmarks.choice import clause, mark, proposition
from safe_r1.inference import startup
from safe_r1.judge import disguise, lexicon_features, vocabulary
from safe_r1.models import control, thinking
from tests.attacks.pump import Pattern

ROOT = Path(safe_r1.__file__).parent
_FUNCTIONS = frozenset(
    ("compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")
)
_ANCHORED = ("match", "fullmatch")
_OPTIONS = (
    (["符合", "不符合"], "这句话是否符合科学常识？"),
    (["歧视女性", "歧视老人", "不涉及歧视", "以上都是"], "下面哪一项是错误的？"),
)


def _made_for_questions() -> Iterator[tuple[str, re.Pattern[str]]]:
    for texts, question in _OPTIONS:
        yield from _of_object(mark.Question(texts, question))


def _made_for_propositions() -> Iterator[tuple[str, re.Pattern[str]]]:
    for _, question in _OPTIONS:
        found = proposition.Proposition.of_question(question) or proposition.Proposition.unknown()
        yield from _of_object(clause.Scanner(found))


def _of_object(value: object) -> Iterator[tuple[str, re.Pattern[str]]]:
    yield from ((name, each) for name, each in vars(value).items() if isinstance(each, re.Pattern))


# Patterns made of values that only their function knows, by file and function; with their names where they
# differ in how they are used.
# Tables of words of which attacks make patterns.
_WORD_TABLES = ("english.txt", "emoji.txt")
MADE: dict[tuple[str, str], Callable[[], Any]] = {
    ("attacks/words.py", "_classical"): lambda: [words._classical()[0]],
    ("attacks/words.py", "_inverse"): lambda: [words._inverse(name)[0] for name in _WORD_TABLES],
    ("attacks/words.py", "_pattern"): lambda: [words._pattern(name) for name in _WORD_TABLES],
    ("benchmarks/choice/clause.py", "__init__"): _made_for_propositions,
    ("benchmarks/choice/mark.py", "__init__"): _made_for_questions,
    ("benchmarks/choice/mark.py", "_compile"): _made_for_questions,
    ("benchmarks/choice/mark.py", "_compile_stated"): _made_for_questions,
    ("benchmarks/choice/mark.py", "_compile_verdicts"): _made_for_questions,
    ("benchmarks/options.py", ""): lambda: options._READINGS,
    ("benchmarks/code_extraction.py", "_defines"): lambda: [
        re.compile(r"\bdef\s+solve\s*\(|^solve\s*=", re.M)
    ],
    ("inference/endpoint_reply.py", "refused_parameter"): lambda: [re.compile(r"\btop_p\b")],
    ("inference/startup.py", "_step"): lambda: [step.pattern for step in startup._STEPS],
    ("judge/disguise.py", "_tables"): lambda: [
        getattr(disguise._tables(), name) for name in ("suspect", "hint", "homophone")
    ],
    ("judge/lexicon_features.py", "load_rules"): lambda: [
        each for group in lexicon_features.load_rules().values() for each in group.values()
    ],
    ("judge/vocabulary.py", "enumeration"): lambda: [
        each.enumeration for each in (vocabulary.REFUSAL, vocabulary.COMPLIANCE)
    ],
    ("judge/vocabulary.py", "glossary"): lambda: [
        each.glossary for each in (vocabulary.REFUSAL, vocabulary.COMPLIANCE)
    ],
    ("models/control.py", "_pattern"): lambda: [
        control._pattern({"<|im_end|>", "[INST]"}, {"User:", "###"}, r"(?:\A|\n)")
    ],
    ("models/reasoning.py", "_unwrapped"): lambda: [re.compile("</answer>", re.IGNORECASE)],
    ("models/thinking.py", "_pattern_of"): lambda: [
        thinking._pattern_of(thinking.ThinkingTags("<seed:think>", "</seed:think>"))
    ],
    ("models/thinking.py", "closing_tag"): lambda: [re.compile(each) for each, _ in thinking._CLOSINGS],
    ("models/thinking.py", "tags_of_tokenizer"): lambda: [re.compile(each) for each, _ in thinking._CLOSINGS],
}


METHODS = {
    "benchmarks/choice/mark.py:lead": "match",
    "judge/vocabulary.py:_REFUSAL_ALONE": "fullmatch",
    "judge/vocabulary.py:_COMPLIANCE_ALONE": "fullmatch",
}
"""How patterns are used whose name does not tell: as ``Question.lead`` and as ``Vocabulary.alone``."""
CUT = {"judge/verdict_rules.py:HYPOTHETICAL": 200, "judge/verdict_rules.py:WEAK": 200}
"""Patterns that are not tried: their caller cuts the text to that length."""


class _Site(NamedTuple):
    """A call that takes a regular expression."""

    call: ast.Call
    function: str
    target: str
    method: str


def collect() -> list[Pattern]:
    """All patterns of the package.

    Raises:
        AssertionError: One is made of values of its function, and ``MADE`` does not say how.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
    uses = _uses(trees)
    found: dict[tuple[str, int, str], Pattern] = {}
    unknown: set[tuple[str, str]] = set()
    for path, tree in trees.items():
        sites = list(_sites(tree))
        if not sites:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
        name = path.relative_to(ROOT).as_posix()
        for site in sites:
            place = f"{name}:{site.target or site.call.lineno}"
            known = uses.get((name if site.target.startswith("_") else "", site.target), "finditer")
            method = site.method or METHODS.get(place, known)
            try:
                text, flags = _evaluate(site.call, vars(module))
            except NameError:
                unknown.add((name, site.function))
                continue
            flags = re.compile(text, flags).flags
            found.setdefault((text, flags, method), Pattern(place, text, flags, method))
    assert unknown == MADE.keys(), unknown ^ MADE.keys()
    for (name, function), make in MADE.items():
        for each in make():
            target, made = each if isinstance(each, tuple) else (function, each)
            place = f"{name}:{target}"
            known = uses.get((name, target)) or uses.get(("", target), "finditer")
            method = METHODS.get(place, known)
            pattern = Pattern(place, made.pattern, made.flags, method)
            found.setdefault((made.pattern, made.flags, method), pattern)
    return list(found.values())


def _evaluate(call: ast.Call, namespace: dict[str, Any]) -> tuple[str, int]:
    """Expression and flags of a call, by the constants of its module."""
    assert isinstance(call.func, ast.Attribute)
    place = {"compile": 1, "search": 2, "match": 2, "fullmatch": 2, "findall": 2, "finditer": 2}.get(
        call.func.attr
    )
    flags: list[ast.expr] = [each.value for each in call.keywords if each.arg == "flags"]
    if place is not None:
        flags += call.args[place:]
    values = [
        eval(compile(ast.Expression(each), "<pattern>", "eval"), dict(namespace))
        for each in [call.args[0], *flags]
    ]
    return values[0], sum(values[1:])


def _sites(tree: ast.Module) -> Iterator[_Site]:
    """Calls of ``re``'s functions, with the function around them and the name that a pattern gets."""

    def visit(node: ast.AST, function: str, parents: tuple[ast.AST, ...]) -> Iterator[_Site]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and _is_of_re(node.func):
            assert isinstance(node.func, ast.Attribute)
            name = node.func.attr
            is_literal = isinstance(node.args[0], ast.Constant) and not isinstance(node.args[0].value, str)
            if not is_literal:
                yield _Site(node, function, _target(parents), _method(name, parents))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, (*parents, node))

    yield from visit(tree, "", ())


def _is_of_re(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "re"
        and function.attr in _FUNCTIONS
    )


def _method(name: str, parents: tuple[ast.AST, ...]) -> str:
    """How a pattern is used as far as its call tells; empty: by the uses of its name."""
    if name == "compile" and isinstance(parents[-1], ast.Attribute):
        name = parents[-1].attr
    if name == "compile":
        return ""
    return name if name in _ANCHORED else "finditer"


def _target(parents: tuple[ast.AST, ...]) -> str:
    parent = parents[-1]
    if isinstance(parent, ast.Assign | ast.AnnAssign):
        target = parent.targets[0] if isinstance(parent, ast.Assign) else parent.target
        return _name(target)
    return ""


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _uses(trees: dict[Path, ast.Module]) -> dict[tuple[str, str], str]:
    """By file and name of a pattern, the one anchored method that it is used with; others are not in it.

    Public names are in it without a file: two patterns of one public name are used as the freer of both.
    """
    methods: dict[tuple[str, str], set[str]] = {}
    for path, tree in trees.items():
        file = path.relative_to(ROOT).as_posix()
        called: set[ast.AST] = set()
        nodes = list(ast.walk(tree))
        for node in nodes:
            if isinstance(node, ast.Attribute) and _name(node.value):
                methods.setdefault(_key(file, _name(node.value)), set()).add(node.attr)
                called.add(node.value)
        for node in nodes:
            is_read = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
            if is_read and node not in called:
                methods.setdefault(_key(file, _name(node)), set()).add("passed on")
    return {
        key: next(iter(used)) for key, used in methods.items() if len(used) == 1 and used <= set(_ANCHORED)
    }


def _key(file: str, name: str) -> tuple[str, str]:
    return (file if name.startswith("_") else "", name)
