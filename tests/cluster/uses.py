"""Holds a file's imports, attributes and calls of some packages against the source of these."""

import ast
from dataclasses import dataclass, field
from pathlib import Path

from safe_r1.selfcheck.source import absolute_name, imported_by_call, is_type_checking, read_imports
from tests.cluster.signatures import (
    Definition,
    Sources,
    bound_names,
    dotted_name,
    imported_modules,
    literal_keys,
)


@dataclass(frozen=True)
class Problem:
    """Something that the packages do not have."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass
class Findings:
    """What was judged, and what does not fit."""

    problems: list[Problem] = field(default_factory=list)
    num_imports: int = 0
    num_calls: int = 0


def check_file(sources: Sources, module: str, file: Path, packages: set[str], findings: Findings) -> None:
    """Hold a file's imports, attributes and calls of some packages against their source."""
    text = file.read_text("utf-8")
    if not any(package in text for package in packages):
        return
    for each in read_imports(module, file):
        if each.is_optional or each.package not in packages:
            continue
        findings.num_imports += 1
        if not sources.file(each.module):
            findings.problems.append(Problem(each.place, f"no module {each.module}"))
        elif each.name and not sources.resolve(each.module, each.name):
            findings.problems.append(Problem(each.place, f"no {each.name} in {each.module}"))
    _Uses(sources, module, file, packages, findings)


class _Uses(ast.NodeVisitor):
    """Judges attributes and calls of what a file imports from some packages, in whatever scope."""

    def __init__(self, sources: Sources, module: str, file: Path, packages: set[str], findings: Findings):
        self._sources = sources
        self._module = module
        self._packages = packages
        self._findings = findings
        self._names: dict[str, Definition] = {}
        tree = ast.parse(file.read_text("utf-8"))
        home = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(tree):
            self._bind(node, home)
        self.visit(tree)

    def _bind(self, node: ast.AST, home: str) -> None:
        targets: dict[str, Definition | None] = {}
        if isinstance(node, ast.Import):
            for bound, target in imported_modules(node):
                targets[bound] = Definition(target, is_module=True)
        elif isinstance(node, ast.ImportFrom):
            target = absolute_name(node, home)
            if self._sources.knows(target):
                for alias in node.names:
                    targets[alias.asname or alias.name] = self._sources.resolve(target, alias.name)
        elif isinstance(node, ast.Assign) and (name := imported_by_call(node.value)):
            targets = dict.fromkeys(bound_names(node), Definition(name, is_module=True))
        for bound, found in targets.items():
            if found and found.module.partition(".")[0] in self._packages:
                self._names[bound] = found

    def _find(self, node: ast.expr) -> tuple[Definition | None, bool]:
        """What an expression stands for, and whether it is an attribute of a class."""
        name = dotted_name(node)
        found = self._names.get(name[0]) if name else None
        is_bound = False
        for part in name[1:]:
            if found is None:
                break
            is_bound = isinstance(found.node, ast.ClassDef)
            found = self._sources.attribute(found, part)
        return found, is_bound

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node):
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner, _ = self._find(node.value)
        if owner and not self._sources.attribute(owner, node.attr):
            self._add(node, f"no {'.'.join(dotted_name(node))}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called, is_bound = self._find(node.func)
        given = [keyword.arg for keyword in node.keywords]
        name = ".".join(dotted_name(node.func))
        if name.endswith(".model_validate") and node.args and isinstance(node.func, ast.Attribute):
            # The fields of a pydantic model as a dictionary.
            called, is_bound = self._find(node.func.value)[0], False
            given = literal_keys(node.args[0])
            positional: list[ast.expr] = []
        else:
            positional = node.args
        signature = self._sources.signature(called, is_bound=is_bound) if called else None
        if signature is None:
            return
        self._findings.num_calls += 1
        for problem in signature.problems(given, positional):
            self._add(node, f"{name} {problem}")

    def _add(self, node: ast.expr, text: str) -> None:
        self._findings.problems.append(Problem(f"{self._module}:{node.lineno}", text))
