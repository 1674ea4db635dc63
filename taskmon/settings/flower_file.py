"""A `flowerconfig.py`, read without running it: what is a literal in it, and the names of what is not."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from ..errors import InvalidSetting
from .flower import FLOWER_ONLY
from .options import OPTIONS
from .trusted_files import open_trusted

FLOWER_FILE: Final = "flowerconfig.py"
MAX_BYTES: Final = 1 << 20

_NAMES: Final = {option.flower: option.name for option in OPTIONS if option.flower}


@dataclass
class FlowerFile:
    """What a file says: values by the name of taskmon's option, the line of each option that is computed there,
    the names of options that say nothing here, and those that are nearly the name of one."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    not_needed: list[str] = field(default_factory=list)
    misspelt: dict[str, str] = field(default_factory=dict)


def read_flower_file(path: Path, *, trusted: bool = True) -> FlowerFile:
    """Read a file; raises InvalidSetting where it cannot be read, is not Python, or somebody else may change it.

    One that is only shown need not be `trusted`.
    """
    found: dict[str, Any] = {}
    computed: dict[str, int] = {}
    for name, node in _assignments(_parse(path, trusted).body):
        try:
            found[name] = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            computed.setdefault(name, getattr(node, "lineno", 0))
    return _sort(path, found, computed)


def _parse(path: Path, trusted: bool) -> ast.Module:
    try:
        with open_trusted("conf", path) if trusted else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InvalidSetting("conf", f"must name a file of at most {MAX_BYTES >> 20} MiB", str(path))
        return ast.parse(content)
    except OSError as exc:
        reason = exc.strerror or "no reason known"
    except SyntaxError as exc:  # its text would quote the file
        reason = f"it is not Python: line {exc.lineno}"
    except (ValueError, RecursionError, MemoryError):
        reason = "it is not Python"
    raise InvalidSetting("conf", f"must name a configuration of Flower that can be read ({reason})", str(path))


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name that gets a value, with the value, or with what makes it unknown."""
    for statement in body:
        match statement:
            case ast.Assign(targets=targets, value=value) if all(isinstance(each, ast.Name) for each in targets):
                yield from ((each.id, value) for each in targets if isinstance(each, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, statement
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((each.asname or each.name, statement) for each in names)
            case _:
                yield from _touched(statement)


def _touched(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a statement of any other kind may change: a name that it assigns, calls a method of or indexes."""
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name, statement
            case ast.Attribute(value=ast.Name(id=name)) | ast.Subscript(value=ast.Name(id=name)):
                yield name, statement


def _sort(path: Path, found: dict[str, Any], computed: dict[str, int]) -> FlowerFile:
    file = FlowerFile(path)
    for name in (*found, *computed):
        known = _NAMES.get(name)
        if known and name in computed:
            file.computed[known] = computed[name]
        elif known and found[name] not in (None, "", [], ()):
            file.values[known] = found[name]
        elif name in FLOWER_ONLY:
            file.not_needed.append(name)
        elif not known and re.fullmatch(r"[a-z]\w*", name):
            near = get_close_matches(name, _NAMES, n=1, cutoff=0.8)
            file.misspelt.update({name: near[0]} if near else {})
    return file
