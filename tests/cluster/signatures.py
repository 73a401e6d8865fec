"""Holds calls against the signatures of a package that is not imported, such as the wheel of another machine.

Everything is read from source. What cannot be told without running it (``*args``, a base class of another
package, a method of an object) is not judged.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from safe_r1.selfcheck.source import absolute_name, is_type_checking

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Bases of other packages whose constructors take the fields of a class, and those that add none.
_FIELD_BASES = {"BaseModel", "Struct", "NamedTuple", "TypedDict"}
_PLAIN_BASES = {"object", "ABC", "Generic", "Protocol", "Enum", "str", "int"}
_DATACLASSES = {"dataclass", "config"}


@dataclass(frozen=True)
class Definition:
    """What a name stands for.

    Attributes:
        module: The module with the definition; for a module itself, its name.
        node: A class or a function; None: a module, or something else that has no signature.
        is_module: True for a module.
    """

    module: str
    node: ast.ClassDef | Function | None = None
    is_module: bool = False


@dataclass
class Signature:
    """Parameters of a call.

    Attributes:
        names: Those that have a name, in order.
        required: Those without a default.
        takes_any: Any further keyword is taken as well.
        max_positional: Arguments without a name; None: any number.
    """

    names: list[str]
    required: set[str] = field(default_factory=set)
    takes_any: bool = False
    max_positional: int | None = None

    def problems(self, keywords: list[str | None], positional: list[ast.expr]) -> Iterator[str]:
        """What is wrong with the arguments of a call; a keyword of None is ``**``."""
        for each in keywords:
            if each is not None and not self.takes_any and each not in self.names:
                yield f"takes no {each}"
        if any(isinstance(each, ast.Starred) for each in positional):
            return
        if self.max_positional is not None and len(positional) > self.max_positional:
            yield f"takes {self.max_positional} positional arguments, not {len(positional)}"
        if None not in keywords:
            for each in sorted(self.required - set(keywords) - set(self.names[: len(positional)])):
                yield f"needs {each}"


class Sources:
    """Packages as folders of source files.

    Args:
        folders: Top-level package to its folder.
    """

    def __init__(self, folders: Mapping[str, Path]):
        self._folders = dict(folders)
        self.module = cache(self._module)
        self.resolve = cache(self._resolve)

    def knows(self, module: str) -> bool:
        """True for a module of one of the packages, whether it exists or not."""
        return module.partition(".")[0] in self._folders

    def file(self, module: str) -> Path | None:
        """The source file of a module, or its compiled one; None: there is none."""
        top, *parts = module.split(".")
        path = Path(self._folders[top], *parts)
        for found in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if found.is_file():
                return found
        return next(iter(path.parent.glob(f"{path.name}.*so")), None) if parts else None

    def _module(self, name: str) -> "Module | None":
        file = self.file(name)
        if file is None or file.suffix != ".py":
            return None
        return Module(name, file)

    def _resolve(self, module: str, name: str) -> Definition | None:
        """What a name of a module stands for; None: the module or the name does not exist."""
        return self._look_up(module, name, frozenset())

    def _look_up(self, module: str, name: str, seen: frozenset[tuple[str, str]]) -> Definition | None:
        if (module, name) in seen:
            return None
        seen |= {(module, name)}
        tree = self.module(module)
        if tree is None:
            return Definition(module) if self.file(module) else None
        if name in tree.definitions:
            return Definition(module, tree.definitions[name])
        candidates = [self._target(*each, seen) for each in tree.imported.get(name, ())]
        own = list(dict.fromkeys(each for each in candidates if each and self.knows(each.module)))
        if any(candidates):
            # Of several, which one it is depends on what is installed or set.
            return own[0] if len(own) == 1 else Definition(module)
        if name in tree.assigned:
            return Definition(module)
        if self.file(f"{module}.{name}"):
            return Definition(f"{module}.{name}", is_module=True)
        for target in tree.starred:
            if self.knows(target) and (found := self._look_up(target, name, seen)):
                return found
        if name in tree.lazy:
            return self._target(*tree.lazy[name], seen)
        return Definition(module) if name in tree.computed else None

    def _target(self, module: str, name: str | None, seen: frozenset[tuple[str, str]]) -> Definition | None:
        if not self.knows(module):
            return Definition(module)
        if name is None:
            return Definition(module, is_module=True) if self.file(module) else None
        return self._look_up(module, name, seen)

    def attribute(self, owner: Definition, name: str) -> Definition | None:
        """An attribute of a module or a class; None: it does not exist."""
        if owner.is_module:
            dunder = name.startswith("__") and name.endswith("__")
            return Definition(owner.module) if dunder else self.resolve(owner.module, name)
        if not isinstance(owner.node, ast.ClassDef):
            return Definition(owner.module)
        is_complete = True
        for module, node in self.classes(owner):
            if node is None or library_bases(node) or name.startswith("__"):
                is_complete = False
            for member in statements(node.body) if node else ():
                if isinstance(member, ast.ClassDef | Function) and member.name == name:
                    return Definition(module, member)
                if name in bound_names(member):
                    return Definition(module)
        return None if is_complete else Definition(owner.module)

    def classes(self, owner: Definition) -> Iterator[tuple[str, ast.ClassDef | None]]:
        """A class and its bases, each with its module; None instead of a base that is in no known package."""
        assert isinstance(owner.node, ast.ClassDef)
        yield owner.module, owner.node
        for base in owner.node.bases:
            if _last_part(base) in _PLAIN_BASES | _FIELD_BASES:
                continue
            name = dotted_name(base.value if isinstance(base, ast.Subscript) else base)
            found = self.resolve(owner.module, name[0]) if name else None
            for part in name[1:]:
                found = self.attribute(found, part) if found else None
            if found and isinstance(found.node, ast.ClassDef) and found != owner:
                yield from self.classes(found)
            else:
                yield owner.module, None

    def signature(self, called: Definition, *, is_bound: bool = False) -> Signature | None:
        """Parameters of a function or a constructor; None: they cannot be told.

        Args:
            called: The function or the class.
            is_bound: It is a method, called through its class.
        """
        if isinstance(called.node, Function):
            decorators = {_last_part(each) for each in called.node.decorator_list}
            if decorators - {"classmethod", "staticmethod", "abstractmethod"}:
                return None
            return function_signature(called.node, skips_first=is_bound and "classmethod" in decorators)
        if not isinstance(called.node, ast.ClassDef):
            return None
        fields: set[str] = set()
        has_fields = False
        for _, node in self.classes(called):
            if node is None:
                return None
            for member in statements(node.body):
                if isinstance(member, Function) and member.name in ("__init__", "__new__"):
                    return function_signature(member, skips_first=True)
            has_fields |= takes_fields(node)
            fields |= field_names(node)
        return Signature(sorted(fields)) if has_fields else None


class Module:
    """The names that a module binds when it is imported."""

    def __init__(self, name: str, file: Path):
        self.name = name
        self.definitions: dict[str, ast.ClassDef | Function] = {}
        self.imported: dict[str, list[tuple[str, str | None]]] = {}
        self.assigned: set[str] = set()
        self.starred: list[str] = []
        self.tree = ast.parse(file.read_text("utf-8"))
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in statements(self.tree.body):
            if isinstance(node, ast.ClassDef | Function):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Import):
                for bound, target in imported_modules(node):
                    self.imported.setdefault(bound, []).append((target, None))
            elif isinstance(node, ast.ImportFrom):
                target = absolute_name(node, package)
                for alias in node.names:
                    if alias.name == "*":
                        self.starred.append(target)
                    else:
                        names = self.imported.setdefault(alias.asname or alias.name, [])
                        names.append((target, alias.name))
            self.assigned.update(bound_names(node))

    @cached_property
    def computed(self) -> set[str]:
        """Texts in a module with ``__getattr__``, which may give a name that is one of them."""
        if "__getattr__" not in self.definitions:
            return set()
        constants = (node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant))
        return {value for value in constants if isinstance(value, str)}

    @cached_property
    def lazy(self) -> dict[str, tuple[str, str | None]]:
        """Names that a module's ``__getattr__`` imports, from a table of ``name: "module:name"``."""
        found: dict[str, tuple[str, str | None]] = {}
        if "__getattr__" not in self.definitions:
            return found
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                texts = [each.value for each in (key, value) if isinstance(each, ast.Constant)]
                if len(texts) == 2 and all(isinstance(text, str) for text in texts) and ":" in str(texts[1]):
                    module, _, name = str(texts[1]).partition(":")
                    found[str(texts[0])] = (self.name + module if module[:1] == "." else module, name or None)
        return found


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or a class that run when it is made, also in ``if``, ``try``, ``with``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from statements([] if is_type_checking(node) else node.body)
            yield from statements(node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [each for handler in node.handlers for each in handler.body]
            yield from statements([*node.body, *handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With):
            yield from statements(node.body)


def bound_names(node: ast.stmt) -> set[str]:
    """The names that an assignment binds."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    else:
        targets = []
    return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}


def imported_modules(node: ast.Import) -> list[tuple[str, str]]:
    """The names that ``import`` binds, each with its module."""
    found: list[tuple[str, str]] = []
    for alias in node.names:
        top = alias.name.partition(".")[0]
        found.append((alias.asname, alias.name) if alias.asname else (top, top))
    return found


def dotted_name(node: ast.expr) -> tuple[str, ...]:
    """``("a", "b")`` of ``a.b``; empty for other expressions."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (owner := dotted_name(node.value)):
        return (*owner, node.attr)
    return ()


def literal_keys(node: ast.expr) -> list[str | None]:
    """The keys of a dictionary literal; None for each that cannot be told."""
    if not isinstance(node, ast.Dict):
        return [None]
    return [str(key.value) if isinstance(key, ast.Constant) else None for key in node.keys]


def function_signature(node: Function, *, skips_first: bool) -> Signature:
    """Parameters of a function."""
    positional = [*node.args.posonlyargs, *node.args.args][1 if skips_first else 0 :]
    names = [each.arg for each in positional]
    num_defaults = min(len(node.args.defaults), len(names))
    required = set(names[: len(names) - num_defaults])
    for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is None:
            required.add(each.arg)
    return Signature(
        [*names, *(each.arg for each in node.args.kwonlyargs)],
        required,
        takes_any=node.args.kwarg is not None,
        max_positional=None if node.args.vararg else len(names),
    )


def field_names(node: ast.ClassDef) -> set[str]:
    """The annotated fields of a class, without its bases'."""
    return {
        name
        for member in statements(node.body)
        if isinstance(member, ast.AnnAssign) and "ClassVar" not in ast.dump(member.annotation)
        for name in bound_names(member)
    }


def takes_fields(node: ast.ClassDef) -> bool:
    """True where a class's constructor is made from its fields."""
    return bool(library_bases(node)) or any(
        _last_part(decorator) in _DATACLASSES for decorator in node.decorator_list
    )


def library_bases(node: ast.ClassDef) -> set[str]:
    """Those of a class's bases that make its constructor, such as pydantic's ``BaseModel``."""
    return {_last_part(base) for base in node.bases} & _FIELD_BASES


def _last_part(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _last_part(node.func)
    if isinstance(node, ast.Subscript):
        return _last_part(node.value)
    return (dotted_name(node) or ("",))[-1]
