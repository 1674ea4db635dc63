"""Secrets that stand in files of their own: of TASKMON_…_FILE, of `file:/…` as a value, and of systemd."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import InvalidSetting
from ..masking import mask_passwords
from .options import OPTION, OPTIONS
from .table import Given, Option
from .trusted_files import is_readable_by_others, may_others_write

MAX_BYTES: Final = 64 << 10
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"

#: The variables that name the file of a secret; TASKMON_TOKEN_FILE is an option itself.
FILE_VARIABLES: Final = {
    f"{option.variable}_FILE": option.name
    for option in OPTIONS
    if option.secret and f"{option.name}_file" not in OPTION
}
_SECRET_NAME: Final = re.compile(r"(?i)passw|secret|token|key|credential|\bauth")


@dataclass(frozen=True)
class SecretFile:
    """The file that a secret stands in, in place of the value."""

    path: Path


def find_credentials(environ: Mapping[str, str]) -> Iterator[tuple[str, SecretFile]]:
    """Yield the options that systemd has a credential for, called taskmon.NAME or NAME."""
    if not environ.get(CREDENTIALS):
        return
    directory = Path(environ[CREDENTIALS])
    for option in OPTIONS:
        if option.secret:
            paths = (directory / f"taskmon.{option.name}", directory / option.name)
            yield from ((option.name, SecretFile(path)) for path in [each for each in paths if _is_there(each)][:1])


def _is_there(path: Path) -> bool:
    """Whether there is a file; one that must not be looked at is reported when it is read."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def read_secrets(
    merged: dict[str, Given], directory: Path, environ: Mapping[str, str], notes: list[str]
) -> list[Path]:
    """Put what the files hold into the values, and warn of secrets that others may read; return the files."""
    files: list[Path] = []
    on_command_line: list[str] = []
    readable: list[str] = []
    for name, (value, source) in list(merged.items()):
        option = OPTION[name]
        if not option.secret:
            continue
        try:
            found = _resolve(option, value, directory)
        except InvalidSetting as exc:
            raise InvalidSetting(name, f"{exc.rule} (given in {source or option.flag})") from None
        merged[name] = Given(found.value, source)
        files += found.files
        written = _holds_secret(option, found.written)
        if written and (not source or source.startswith("-")):
            on_command_line.append(name)
        if any(_is_exposed(path, environ) for path in (*found.files, *([Path(source)] if written else []))):
            readable.append(name)
    if "keyfile" in merged and _is_exposed(directory / str(merged["keyfile"].value), environ):
        readable.append("keyfile")
    if on_command_line:
        notes.append(
            f"Secrets on a command line can be read by others: {_flags(on_command_line)}; "
            "put them into a file, or into variables"
        )
    if readable:
        notes.append(f"Others may read the file that holds a secret: {_flags(readable)}; chmod go-r takes that away")
    return files


class _Resolved(NamedTuple):
    value: object
    written: list[object]
    files: list[Path]


def _resolve(option: Option, value: object, directory: Path) -> _Resolved:
    """Return a value with what its files hold in their place, what was written there itself, and the files."""
    items: list[object] = []
    found = _Resolved(items, [], [])
    for item in _items(option, value):
        file = item if isinstance(item, SecretFile) else _named(option, item)
        if file is None:
            found.written.append(item)
            items.append(item)
        else:
            found.files.append(directory / file.path)
            items += _read(option, found.files[-1])
    if not found.files:
        return found._replace(value=value)
    return found if option.multiple else found._replace(value=items[0])


def _items(option: Option, value: object) -> list[object]:
    """Return the items of a value: a text may have many, with commas; a flag that is repeated is a tuple."""
    split = option.kind.split
    if isinstance(value, tuple) and split:
        return [piece for text in value for piece in split(str(text))]
    if isinstance(value, list):
        return value
    return list(split(value)) if split and isinstance(value, str) else [value]


def _holds_secret(option: Option, values: list[object]) -> bool:
    """Whether there is something to hide in values: a URL may have no password."""
    texts = [str(value) for value in values]
    if option.name == "set":
        return any(_SECRET_NAME.search(text.partition("=")[0]) or mask_passwords(text) != text for text in texts)
    return any(option.kind.metavar != "URL" or mask_passwords(text) != text for text in texts)


def _is_exposed(path: Path, environ: Mapping[str, str]) -> bool:
    """Whether others may read a file; systemd hands over its own by an ACL, which the mode does not show."""
    credentials = environ.get(CREDENTIALS)
    return is_readable_by_others(path) and not (credentials and path.is_relative_to(credentials))


def _named(option: Option, value: object) -> SecretFile | None:
    """Return the file that a text names; a result backend of Celery's may be `file:///…` itself."""
    text = value.strip() if isinstance(value, str) else ""
    path = text.removeprefix("file:")
    if path == text or (option.name == "result_backend" and path.startswith("//")):
        return None
    path = path.removeprefix("//")
    if path.startswith("/"):
        return SecretFile(Path(path))
    if option.name == "basic_auth":  # a user may be called file
        return None
    raise InvalidSetting(option.name, "must have an absolute path behind file:, as in file:/run/secrets/name")


def _read(option: Option, path: Path) -> list[object]:
    """Return the values in a file, without line breaks at its end; of many values, each has a line."""
    text = _text(option, path)
    split = option.kind.split
    return [piece for line in text.splitlines() for piece in split(line)] if split else [text]


def _text(option: Option, path: Path) -> str:
    try:
        content = _content(path)
        if len(content) > MAX_BYTES:
            raise _broken(option, f"it is larger than {MAX_BYTES >> 10} KiB")
        text = content.decode().rstrip("\r\n")
    except OSError as exc:
        raise _broken(option, exc.strerror or "no reason known") from None
    except ValueError:  # a path with a NUL, or no UTF-8
        raise _broken(option, "it is no text in UTF-8") from None
    if not text.strip():
        raise _broken(option, "it is empty")
    return text


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep us waiting
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no regular file")
        if may_others_write(path, mode):
            raise OSError(0, "its group or everybody may write to it; chmod go-w sets that right")
        return file.read(MAX_BYTES + 1)


def _broken(option: Option, reason: str) -> InvalidSetting:
    # The path is not shown: it may be the secret, in the wrong place.
    return InvalidSetting(option.name, f"must name a file that holds the value ({reason})")


def _flags(names: list[str]) -> str:
    return ", ".join(OPTION[name].flag for name in names)
