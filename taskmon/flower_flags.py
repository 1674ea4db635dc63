"""Flower's command lines: they are rewritten before click reads them, so that they start taskmon unchanged.

There `-port=1` is `--port=1`, a switch may have a value, and options that Flower does not know are ignored.
"""

import re
from collections.abc import Iterator
from typing import Final

import click

from .errors import InvalidSetting
from .settings import ALIASES, CELERY_ONLY, CELERY_SHORT, FLOWER_ONLY, OPTION, is_switch_word, parse_switch

_LONG_FLAG: Final = re.compile(r"(--?)(?P<name>[A-Za-z][\w-]+)(?:=(?P<value>.*))?", re.DOTALL)
_SHORT_FLAG: Final = re.compile(r"-(?P<name>[A-Za-z])(?P<value>.*)", re.DOTALL)


class Rewriter:
    """Rewrites the arguments of one command; `not_needed` are the options that were left out, as they were written,
    and `as_flower` the names of those that are spelled as in Flower's manual, with _ for -.

    A group's own arguments end before the name of a command.
    """

    def __init__(self, command: click.Command) -> None:
        options = [param for param in command.params if isinstance(param, click.Option)]
        self._takes_value = {
            name.lstrip("-").replace("-", "_"): not param.is_flag and not param.count
            for param in options
            for name in (*param.opts, *param.secondary_opts)
        }
        # Only a command with options of Flower's is one that Flower's command lines are meant for.
        self._rewrites = "log_level" in self._takes_value
        self._ends = isinstance(command, click.Group)
        self.not_needed: list[str] = []
        self.as_flower: list[str] = []

    def rewrite(self, args: list[str]) -> list[str]:
        """Return the arguments as click shall read them; raises InvalidSetting for a bad value of a switch."""
        if not self._rewrites:
            return args
        rest = list(args)
        rewritten: list[str] = []
        while rest:
            arg = rest.pop(0)
            if arg == "--" or (self._ends and not arg.startswith("-")):
                return [*rewritten, arg, *rest]
            rewritten += self._take(arg, rest)
        return rewritten

    def _take(self, arg: str, rest: list[str]) -> Iterator[str]:
        long = _LONG_FLAG.fullmatch(arg)
        if long:
            name = long["name"].replace("-", "_")
            name = ALIASES.get(name, name) if name not in self._takes_value else name
            if name in self._takes_value:
                if "_" in long["name"]:
                    self.as_flower.append(name)
                return self._take_own(name, long["value"], rest)
            if self._leave_out(name, long["value"], rest, {**FLOWER_ONLY, **CELERY_ONLY}):
                self.not_needed.append(f"--{long['name']}")
                return iter(())
            if arg.startswith("--"):
                return iter((arg,))
        return self._take_short(arg, rest)

    def _take_own(self, name: str, value: str | None, rest: list[str]) -> Iterator[str]:
        """Take an option of the command: it may be a switch with a value, and a value may follow it."""
        flag = "--" + name.replace("_", "-")
        if self._takes_value[name]:
            yield from (flag if value is None else f"{flag}={value}",)
            if value is None and rest:
                yield rest.pop(0)
            return
        option = OPTION.get(name)
        if option is None or not option.switch:
            yield flag if value is None else f"{flag}={value}"
            return
        if value is None and rest and is_switch_word(rest[0]):
            value = rest.pop(0)
        try:
            yield flag if value is None or parse_switch(value) else f"--no-{flag[2:]}"
        except ValueError as exc:
            raise InvalidSetting(name, str(exc), value) from None

    def _take_short(self, arg: str, rest: list[str]) -> Iterator[str]:
        short = _SHORT_FLAG.fullmatch(arg)
        if not short:
            yield arg
            return
        name, value = short["name"], short["value"]
        if name in self._takes_value:
            yield f"-{name}"
            if self._takes_value[name] and value:
                yield value.removeprefix("=")
            elif self._takes_value[name] and rest:
                yield rest.pop(0)
            elif value:
                yield from self._take_short(f"-{value}", rest)
            return
        if self._leave_out(name, value or None, rest, CELERY_SHORT):
            self.not_needed.append(f"-{name}")
            if value and not CELERY_SHORT[name]:
                yield from self._take_short(f"-{value}", rest)
            return
        yield arg

    def _leave_out(self, name: str, value: str | None, rest: list[str], known: dict[str, bool]) -> bool:
        """Whether an option is one to leave out; its value, which may follow it, goes as well."""
        positive = name.removeprefix("no_")
        if name not in known and known.get(positive) is not False:
            return False
        takes_value = known.get(name, False)
        if value is None and rest and (not rest[0].startswith("-") if takes_value else is_switch_word(rest[0])):
            rest.pop(0)
        return True
