"""How the command line reads its arguments and says what is wrong: one sentence, which never quotes a secret."""

import re
from difflib import get_close_matches
from typing import Any, Final

import click

from .errors import InvalidSetting
from .flower_flags import Rewriter
from .masking import mask_passwords

_COLUMN: Final = 31

#: Under this name a context keeps the options that were left out.
NOT_NEEDED: Final = "taskmon.not_needed"
#: Under this one those that were spelled as in Flower's manual.
AS_FLOWER: Final = "taskmon.as_flower"


class BadUsage(click.ClickException):
    """Ends the program with one sentence, as what was asked cannot be done."""

    exit_code = 2

    def __init__(self, sentence: str) -> None:
        super().__init__(re.sub(r"\s+", " ", mask_passwords(sentence)).strip())


class NotStarted(BadUsage):
    """Ends the program with one sentence, as the machine does not allow what was asked."""

    exit_code = 1


class SectionOption(click.Option):
    """An option that knows its section and brings its own line of --help."""

    def __init__(self, *args: Any, section: str, record: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_from_autoenv = False  # celery would make CELERY_TASKMON_PORT of it
        self.section = section
        self.record = record

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.record


class Command(click.Command):
    """Says what is wrong in one sentence, which never quotes an argument, and shows options by section."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rewriter = Rewriter(self)
            rewritten = rewriter.rewrite(args)
            ctx.meta.setdefault(NOT_NEEDED, []).extend(rewriter.not_needed)
            ctx.meta.setdefault(AS_FLOWER, []).extend(rewriter.as_flower)
            return super().parse_args(ctx, rewritten)
        except InvalidSetting as exc:
            raise BadUsage(str(exc)) from None
        except click.UsageError as exc:
            raise BadUsage(_usage_sentence(exc)) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl([(term.ljust(_COLUMN), text) for term, text in records], col_max=_COLUMN)


class Group(Command, click.Group):
    """The program itself: runs the server when no command is named."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            # The word may be a password that lost its option: it is not repeated.
            raise BadUsage(f"There is no such command; there are {', '.join(sorted(self.commands))}") from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _usage_sentence(exc: click.UsageError) -> str:
    if isinstance(exc, click.NoSuchOption):
        known = [name.lstrip("-") for param in exc.ctx.command.params for name in param.opts] if exc.ctx else []
        nearest = get_close_matches(exc.option_name.lstrip("-"), known, n=1)
        return f"There is no option {exc.option_name}" + "".join(f"; did you mean --{name}?" for name in nearest)
    if type(exc) is click.UsageError:
        return "There is an argument too many; options begin with --"
    return exc.format_message()
