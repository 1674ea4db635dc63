"""`taskmon convert-config`: a `flowerconfig.py` as the text of a `taskmon.toml`. Runs nothing of the file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .errors import InvalidSetting
from .settings import INSTEAD, OPTION, FlowerFile, Option, Settings, checked, read_flower_file

_SECRETS: Final = "# It holds secrets: let only the user that taskmon runs as read it (chmod 600).\n"


def convert(path: Path) -> str:
    """Return the file in TOML, with comments about what has to be done by hand; raises InvalidSetting."""
    file = read_flower_file(path, trusted=False)
    lines = list(_lines(file))
    head = f"# Converted from {path.name}.\n"
    if any(OPTION[name].secret for name in file.values):
        head += _SECRETS
    return head + "\n" + "".join(f"{line}\n" for line in lines)


def _lines(file: FlowerFile) -> Iterator[str]:
    for name, value in file.values.items():
        yield from _line(OPTION[name], value)
    for name, number in file.computed.items():
        option = OPTION[name]
        yield f"# {name} is computed in line {number}: set it here, by {option.flag} or by {option.variable}."
        if name == "format_task":
            yield '# Put the function into a module: format_task = "module:function".'
        yield f"# {name} ="
    for name in file.not_needed:
        instead = f"; {INSTEAD[name]} does that" if name in INSTEAD else ""
        yield f"# {name} is not needed{instead}."
    for name, near in file.misspelt.items():
        yield f"# {name} is no option of Flower; {near} is one."


def _line(option: Option, value: Any) -> Iterator[str]:
    """Yield the line of an option; one that taskmon refuses is a comment that says why, without the value."""
    try:
        checked(option, tuple(value) if isinstance(value, list) else value)
        Settings(**{option.name: value})
        yield f"{option.name} = {_write(option, value)}"
    except InvalidSetting as exc:
        yield f"# {option.name} {exc.rule}: it is left out."
    except (ValueError, TypeError):
        yield f"# {option.name} has a value that TOML cannot hold: it is left out."


def _write(option: Option, value: Any) -> str:
    """Write a value as TOML does; raises ValueError for one that it cannot hold."""
    if option.switch:
        return json.dumps(option.kind.parse(value))
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(_write_scalar(each) for each in value)}]"
    return _write_scalar(value)


def _write_scalar(value: object) -> str:
    match value:
        case bool() | int():
            return json.dumps(value)
        case float():
            return {math.inf: "inf", -math.inf: "-inf"}.get(value) or repr(value)
        case str():
            value.encode()  # half of a pair of surrogates is no text
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise ValueError("no such value in TOML")
