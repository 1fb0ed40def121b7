"""Code versions: a hash of the code that a function runs, computed and never typed by hand.

The code of a function is the function itself, every function, class and constant of the project that it names, directly
or indirectly, and the SQL files and templates whose names appear in any of them. Comments (also those of columns),
docstrings, annotations of functions and layout do not count, so rewording makes nothing stale. Other code in the same
module does not count either.

The search stops in two places:

- A registry names its implementations as texts, "module:name". It is a constant annotated as `Registry`, or a function
  that returns an `Implementation`. A step that uses a registry adds the implementation that the settings choose, so one
  more entry makes nothing stale.
- `TABLES` in the `tables` of a package are the schemas of all its tables. A step adds its own.
"""

import ast
import hashlib
import importlib.util
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipelines.planner.remembered import Remembered

ROOMS = ("warehouse", "features", "mmm4rec", "pipelines")

Symbol = tuple[str, str]
"""A module of the project and a name that it binds. An empty name means the code that runs at every import of it."""

_COMMENTS = {"_field": 2, "_column": 2, "_table": 0}
"""The functions that declare columns and tables, with the position of the argument that is a comment."""
_SCHEMAS = frozenset({"TABLES", "ACCEPTED"})
"""Names that end the search, in the module `tables` of a package."""


@cache  # called for every domain
def code_version(*names: str) -> str:
    """16 hex digits over the code that the functions, classes or constants named `module:name` run.

    None of them is imported, because importing a model would load torch. Their own decorators do not count, because
    these only declare the function.

    Raises:
        ValueError: the project has no such module, or the module binds no such name.
    """
    asked = " ".join(names)
    if known := _remembered().get(asked):
        return known
    digest = hashlib.sha256()
    for symbol in sorted(_reached(names)):
        digest.update(f"{':'.join(symbol)}\n{_text_of(symbol)}\n".encode())
    version = digest.hexdigest()[:16]
    _remembered().put(asked, version)
    return version


@cache
def _remembered() -> Remembered:
    return Remembered([_room(room) for room in ROOMS])


def reached(*names: str) -> set[str]:
    """The functions, classes and constants whose code `code_version` hashes, as `module:name`."""
    return {f"{module}:{name.removeprefix('@')}" for module, name in _reached(names) if name}


def normalised_sql(text: str) -> str:
    """SQL without comments, with each run of white space as one blank. Quoted text is kept unchanged."""
    quoted = r"'(?:[^']|'')*'|\"[^\"]*\""
    blank = r"(?:--[^\n]*|/\*.*?\*/|\s)+"
    return re.sub(f"({quoted})|{blank}", lambda m: m[1] or " ", text, flags=re.DOTALL).strip()


def forget() -> None:
    """Clear the caches, so that the next call reads the sources again."""
    for function in (code_version, _remembered, _uses, _text_of, _module, _named_files, _room, _path):
        function.cache_clear()


@dataclass(frozen=True)
class _Module:
    """The source of a module, by the names that it binds at its top level."""

    bound: dict[str, list[ast.stmt]]
    imported: dict[str, str]
    """The dotted path of each imported name."""
    effects: list[ast.stmt]
    """Statements that do more than bind names. They run for every importer of the module."""
    registries: set[str]
    """The bound names that end the search."""
    meant: dict[str, list["_Statement"]]
    """The statements that count for each name requested so far."""


def _reached(names: Iterable[str]) -> set[Symbol]:
    found: set[Symbol] = set()
    pending = [_asked(name) for name in names]
    while pending:
        symbol = pending.pop()
        if symbol not in found:
            found.add(symbol)
            pending.extend(_uses(symbol))
    return found


def _asked(name: str) -> Symbol:
    """The symbol named `module:name`; for a method, its class. The mark @ means that its decorators do not count."""
    module, _, bound = name.partition(":")
    bound = bound.partition(".")[0]
    if _path(module) is None:
        raise ValueError(f"{module} is not a module of {', '.join(ROOMS)}")
    found = _lookup(module, bound)
    if found is None:
        raise ValueError(f"{module} has no {bound}")
    return found[0], f"@{found[1]}"


@cache
def _uses(symbol: Symbol) -> tuple[Symbol, ...]:
    """The symbols that the code of a symbol uses, and the import-time code of its module and the packages around it."""
    module, _ = symbol
    parts = module.split(".")
    found = {(package, "") for package in (".".join(parts[:end]) for end in range(1, len(parts) + 1)) if _path(package)}
    for statement in _statements(symbol):
        inside = dict(_aliases(statement.node))
        aliases = _module(module).imported | inside
        for dotted in inside.values():
            found |= {*_resolve(dotted)}
        for used in statement.globals | inside.keys():
            if used in aliases and _path(aliases[used]):
                # For a module, only the names taken from it count.
                for chain in _chains(statement.node, used):
                    found |= {*_resolve(f"{aliases[used]}{chain}")}
            elif symbol_of := _lookup(module, used):
                found.add(symbol_of)
    return tuple(sorted(found - {symbol}))


@cache
def _text_of(symbol: Symbol) -> str:
    """The code that counts for a symbol: its statements, the packages its names come from, and the files it names."""
    module, _ = symbol
    statements, imported = _statements(symbol), _module(module).imported
    elsewhere = {
        f"{used} is {imported[used]}"
        for statement in statements
        for used in statement.globals & imported.keys()
        if imported[used].split(".")[0] not in ROOMS
    }
    constants = {n.value for s in statements for n in ast.walk(s.node) if isinstance(n, ast.Constant)}
    files = [path for path in _named_files(module.split(".")[0]) if {path.name, path.stem} & constants]
    return "\n".join([*(s.text for s in statements), *sorted(elsewhere), *map(_file, files)])


@dataclass(frozen=True)
class _Statement:
    """A statement of a module as a tree and as text, without the parts that do not count."""

    node: ast.stmt
    text: str
    globals: frozenset[str]
    """The names that the statement takes from its module."""


def _statements(symbol: Symbol) -> list[_Statement]:
    module, name = symbol
    known = _module(module)
    if name not in known.meant:
        known.meant[name] = []
        for statement in known.bound[name.removeprefix("@")] if name else known.effects:
            meant = _Meaning().visit(statement)  # changes the tree in place; doing so twice is harmless
            if name.startswith("@") and isinstance(meant, ast.FunctionDef):
                meant = ast.fix_missing_locations(ast.FunctionDef(meant.name, meant.args, meant.body, [], None))
            text = ast.unparse(meant)
            known.meant[name].append(_Statement(meant, text, frozenset(_globals(text))))
    return known.meant[name]


def _lookup(module: str, name: str) -> Symbol | None:
    """The symbol that a name of a module refers to, wherever it is bound; None if it is not part of the project."""
    known = _module(module)
    if name in known.bound:
        cut = name in known.registries or (name in _SCHEMAS and module.endswith(".tables"))
        return None if cut else (module, name)
    return next(iter(_resolve(known.imported[name])), None) if name in known.imported else None


def _resolve(dotted: str) -> list[Symbol]:
    """The symbols that a dotted path refers to; empty if it is not part of the project."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if _path(module):
            if end == len(parts):
                return [(module, "")]
            name, rest = parts[end], parts[end + 1 :]
            known = _module(module)
            if name not in known.bound and name in known.imported:
                return _resolve(".".join([known.imported[name], *rest]))
            found = _lookup(module, name)
            return [found] if found else []
    return []


def _globals(text: str) -> set[str]:
    """The names that a statement takes from its module, by Python's scope rules."""
    found: set[str] = set()
    pending = [symtable.symtable(text, "house", "exec")]
    while pending:
        table = pending.pop()
        pending.extend(table.get_children())
        top = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if (s.is_referenced() if top else s.is_global())}
    return found


def _chains(statement: ast.stmt, root: str) -> Iterator[str]:
    """The attribute chains on a name, such as `.a.b`; an empty string where the name is used alone."""
    inner = set()
    for node in ast.walk(statement):
        chain, top = "", node
        while isinstance(top, ast.Attribute):
            chain, top = f".{top.attr}{chain}", top.value
        if isinstance(top, ast.Name) and top.id == root and id(top) not in inner:
            inner.add(id(top))
            yield chain


def _aliases(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that the imports in `node` bind, and the dotted paths that they stand for."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            for alias in part.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(part, ast.ImportFrom) and part.module:
            for alias in part.names:
                yield alias.asname or alias.name, f"{part.module}.{alias.name}"


@cache
def _module(name: str) -> _Module:
    path = _path(name)
    if path is None:
        raise ValueError(f"{name} is not a module of {', '.join(ROOMS)}")
    return _parsed(path.read_text(encoding="utf-8"))


@cache
def _parsed(source: str) -> _Module:
    found = _Module({}, {}, [], set(), {})
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.imported.update(_aliases(statement))
        elif not _is_guard(statement):
            for bound in _binds(statement):
                found.bound.setdefault(bound, []).append(statement)
                if _is_registry(statement):
                    found.registries.add(bound)
            if _has_effect(statement):
                found.effects.append(statement)
    return found


class _Meaning(ast.NodeTransformer):
    """Removes the parts of a source that do not affect a run: docstrings, and annotations outside classes."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Remove a constant that stands alone, which is a docstring."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Empty the comments of columns and tables, which are text for people."""
        if isinstance(node.func, ast.Name) and node.func.id in _COMMENTS:
            place = _COMMENTS[node.func.id]
            if len(node.args) > place and isinstance(node.args[place], ast.Constant):
                node.args[place] = ast.copy_location(ast.Constant(""), node.args[place])
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove annotations. Of annotated variables in the body, keep only the assigned values."""
        node.returns = None
        for argument in (
            *node.args.posonlyargs,
            *node.args.args,
            *node.args.kwonlyargs,
            node.args.vararg,
            node.args.kwarg,
        ):
            if argument:
                argument.annotation = None
        node.body = [plain for statement in node.body for plain in _without_annotation(statement)]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return ast.fix_missing_locations(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Keep the annotations of a class, because they are its fields."""
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return ast.fix_missing_locations(node)


def _without_annotation(statement: ast.stmt) -> list[ast.stmt]:
    if not isinstance(statement, ast.AnnAssign):
        return [statement]
    return [ast.copy_location(ast.Assign([statement.target], statement.value), statement)] if statement.value else []


def _is_guard(statement: ast.stmt) -> bool:
    """Whether a statement is only for type checkers, or only for a module that runs as a script."""
    test = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
    return test == "TYPE_CHECKING" or test.startswith("__name__ ==")


def _is_registry(statement: ast.stmt) -> bool:
    """Whether a statement binds a constant annotated as a registry, or a function that returns an implementation."""
    if isinstance(statement, ast.FunctionDef):
        return isinstance(statement.returns, ast.Name) and statement.returns.id == "Implementation"
    return isinstance(statement, ast.AnnAssign) and "Registry" in {
        node.id for node in ast.walk(statement.annotation) if isinstance(node, ast.Name)
    }


def _top(statement: ast.stmt) -> Iterator[ast.AST]:
    """A statement and its parts, without the contents of functions and classes."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def _binds(statement: ast.stmt) -> set[str]:
    """The names that a statement binds at the top level. `__all__` does not count, because it affects no run."""
    found = set(dict(_aliases(statement))) if isinstance(statement, ast.If | ast.Try | ast.With) else set()
    for node in _top(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found - {"__all__"}


def _has_effect(statement: ast.stmt) -> bool:
    """Whether a statement does more than bind names: it calls something for its effect, or changes a bound object."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False  # a docstring
    for node in _top(statement):
        if isinstance(node, ast.Expr | ast.Delete | ast.Assert | ast.Raise | ast.For | ast.While | ast.With):
            return True
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            return True
    return False


def _file(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return normalised_sql(text) if path.suffix == ".sql" else text


@cache
def _named_files(room: str) -> list[Path]:
    """The SQL files and templates of a room. Code refers to them by name."""
    return sorted([*_room(room).rglob("sql/*.sql"), *_room(room).rglob("templates/*.html")])


@cache
def _room(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{package} is not installed")
    return Path(spec.origin).parent


@cache
def _path(module: str) -> Path | None:
    """The file of a module of the project."""
    package, *rest = module.split(".")
    if package not in ROOMS:
        return None
    base = _room(package).joinpath(*rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
