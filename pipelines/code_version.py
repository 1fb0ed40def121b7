"""Code versions: a hash of the code behind an asset, derived and never typed by hand.

The code behind a module is itself, every module of the house which it imports, and every SQL file and template which
those name. Comments, docstrings and layout of Python and SQL do not count, so rewording a comment makes
nothing stale.
"""

import ast
import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path

ROOMS = ("warehouse", "features", "mmm4rec", "pipelines")


def code_version(*names: str) -> str:
    """16 hex digits over the normalised source behind the modules of these names and the SQL it names.

    None of them is imported: that of a model's would load torch.
    """
    modules: set[str] = set()
    pending = [*names]
    while pending:
        module = pending.pop()
        if module not in modules:
            modules.add(module)
            pending.extend(_imports(module))
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(f"{module}\n{_normalised(module)}\n".encode())
    return digest.hexdigest()[:16]


def normalised_sql(text: str) -> str:
    """SQL without comments, with runs of blanks as one; what stands in quotes is kept as it is."""
    quoted = r"'(?:[^']|'')*'|\"[^\"]*\""
    blank = r"(?:--[^\n]*|/\*.*?\*/|\s)+"
    return re.sub(f"({quoted})|{blank}", lambda m: m[1] or " ", text, flags=re.DOTALL).strip()


@cache
def _normalised(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = body[1:]
    return "\n".join([ast.dump(tree), *(_text(path) for path in _named_files(module))])


@cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ValueError(f"{module} is no module of {', '.join(ROOMS)}")
    return ast.parse(path.read_text())


@cache
def _imports(module: str) -> list[str]:
    """The house's modules that `module` imports, at its top or inside functions."""
    found = []
    for node in ast.walk(_tree(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in ROOMS and _path(name):
                found.append(name)
    return found


def _named_files(module: str) -> list[Path]:
    """The SQL files and templates of the room whose names stand as string constants in `module`."""
    room = _room(module.split(".")[0])
    names = {node.value for node in ast.walk(_tree(module)) if isinstance(node, ast.Constant)}
    files = [*room.glob("sql/*.sql"), *room.glob("templates/*")]
    return sorted(path for path in files if {path.name, path.stem} & names)


def _text(path: Path) -> str:
    text = path.read_text()
    return normalised_sql(text) if path.suffix == ".sql" else text


@cache
def _room(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{package} is not installed")
    return Path(spec.origin).parent


@cache
def _path(module: str) -> Path | None:
    """The file of a module."""
    package, *rest = module.split(".")
    if package not in ROOMS:
        return None
    base = _room(package).joinpath(*rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
