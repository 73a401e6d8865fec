"""The imports of a module, read from its source; nothing is imported."""

import ast
import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_IMPORT_FUNCTIONS = {"import_module", "try_import"}


@dataclass(frozen=True)
class Import:
    """One import of a module, or of a name from it.

    Attributes:
        module: The imported module.
        name: What is imported from it, which may be a submodule; None: the module itself.
        importer: The module with the import.
        line: Its line there.
        is_optional: The importer catches the error, and does without.
    """

    module: str
    name: str | None
    importer: str
    line: int
    is_optional: bool = False

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]

    @property
    def place(self) -> str:
        """Where it stands, as ``module:line``."""
        return f"{self.importer}:{self.line}" if self.line else self.importer


@cache
def find_module(name: str) -> Path | None:
    """The source file of a module; None if there is none. Not even its packages are imported."""
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not parts:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *parts)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def read_imports(module: str, file: Path) -> list[Import]:
    """All imports of a file that may run, those in functions too.

    Type checkers' imports (``if TYPE_CHECKING``) are left out. One in a ``try`` whose handler goes on without
    it is optional; where the handler raises, it is not.
    """
    reader = _Reader(module, is_package=file.name == "__init__.py")
    reader.visit(ast.parse(file.read_text("utf-8")))
    return reader.found


class _Reader(ast.NodeVisitor):
    def __init__(self, module: str, *, is_package: bool):
        self.found: list[Import] = []
        self._module = module
        self._package = module if is_package else module.rpartition(".")[0]
        self._is_optional = False

    def _add(self, module: str, name: str | None, node: ast.expr | ast.stmt) -> None:
        self.found.append(Import(module, name, self._module, node.lineno, self._is_optional))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, None, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = absolute_name(node, self._package)
        for alias in node.names:
            self._add(module, None if alias.name == "*" else alias.name, node)

    def visit_Call(self, node: ast.Call) -> None:
        name = imported_by_call(node)
        if name:
            with self._optional(isinstance(node.func, ast.Name) and node.func.id == "try_import"):
                self._add(name, None, node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node):
            self._visit_all(node.body)
        self._visit_all(node.orelse)

    def visit_Try(self, node: ast.Try) -> None:
        handlers = [handler for handler in node.handlers if _catches_import_errors(handler)]
        with self._optional(bool(handlers) and not any(map(_raises, handlers))):
            self._visit_all(node.body)
        for handler in node.handlers:
            # What a handler imports instead is needed only where the first choice is missing.
            with self._optional(handler in handlers):
                self._visit_all(handler.body)
        self._visit_all([*node.orelse, *node.finalbody])

    def visit_With(self, node: ast.With) -> None:
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        suppressed = {
            name
            for call in calls
            if _last_name(call.func) == "suppress"
            for name in map(_last_name, call.args)
        }
        with self._optional(bool(suppressed & _IMPORT_ERRORS)):
            self._visit_all(node.body)

    @contextlib.contextmanager
    def _optional(self, is_optional: bool) -> Iterator[None]:
        before = self._is_optional
        self._is_optional = before or is_optional
        yield
        self._is_optional = before

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)


def absolute_name(node: ast.ImportFrom, package: str) -> str:
    """The module of ``from MODULE import …`` in a module of a package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def imported_by_call(node: ast.expr) -> str | None:
    """The module of ``importlib.import_module("…")``; None: it is none, or the name is computed."""
    if not isinstance(node, ast.Call) or _last_name(node.func) not in _IMPORT_FUNCTIONS or not node.args:
        return None
    name = node.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def is_type_checking(node: ast.If) -> bool:
    """True for ``if TYPE_CHECKING``, whose body never runs."""
    return _last_name(node.test) == "TYPE_CHECKING"


def _catches_import_errors(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(_last_name(kind) in _IMPORT_ERRORS for kind in kinds)


def _raises(handler: ast.ExceptHandler) -> bool:
    """True where a handler ends in an error, raised by itself or by a function that is named after it."""
    return any(
        isinstance(node, ast.Raise)
        or (isinstance(node, ast.Call) and _last_name(node.func).startswith("raise_"))
        for node in ast.walk(handler)
    )


def _last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c``; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
