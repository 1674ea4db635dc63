"""The command line: `taskmon`, its commands, and the plugin that is `celery taskmon`.

Every run of `celery` imports this module, so all that is heavy is imported where it is used.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from errno import EEXIST
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from . import __version__
from .celery_app import adopt_app, load_app
from .errors import HistoryRefused, InvalidArgument, InvalidSetting, Unavailable
from .settings import DEFAULT_FILE, FLOWER_FILE, OPTION, OPTIONS, Option, Settings, check_directories, load_settings
from .usage import AS_FLOWER, NOT_NEEDED, BadUsage, Command, Group, NotStarted, SectionOption

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

_CONTEXT: Final = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    # Flower's spelling of options, with _ for -, is as good.
    "token_normalize_func": lambda name: name.replace("_", "-"),
}
_HELP: Final = f"""Watch a Celery cluster and answer questions about its tasks over HTTP.

Defaults are in [brackets]. Set --port, for example, in the environment as TASKMON_PORT or Flower's FLOWER_PORT, or
in {DEFAULT_FILE} as port = 5555. A flag overrides TASKMON_PORT, that overrides FLOWER_PORT, and that the file.
For several values, repeat the option or separate them by commas. Secrets can be in files of their own:
TASKMON_BROKER_FILE=PATH, or file:/PATH as the value.
"""


def _params(*, without: tuple[str, ...] = ()) -> list[click.Parameter]:
    return [_to_param(option) for option in OPTIONS if option.name not in without]


def _to_param(option: Option) -> click.Parameter:
    text = f"{option.help} [{option.default_text}]" if option.default_text else option.help
    flag = option.flag
    if option.switch:
        record = (f"--[no-]{flag[2:]}", text)
        return SectionOption([f"{flag}/--no-{flag[2:]}"], default=None, section=option.section, record=record)
    flags = [f"-{option.short}", flag] if option.short else [flag]
    record = (f"{', '.join(flags)} {option.kind.metavar}", text)
    # Values stay texts: Settings reads and checks them, in the same way wherever they come from.
    return SectionOption(
        flags, multiple=option.multiple, type=click.UNPROCESSED, section=option.section, record=record
    )


_WORKDIR: Final = SectionOption(
    ["--workdir"],
    type=click.UNPROCESSED,
    section="Celery",
    record=("--workdir PATH", "Directory to change to before anything is read or loaded."),
)


@click.group(
    "taskmon",
    cls=Group,
    help=_HELP,
    params=[*_params(), _WORKDIR],
    context_settings=_CONTEXT,
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="taskmon")
@click.pass_context
def main(ctx: click.Context, /, workdir: str | None, **flags: object) -> None:
    """Run the server, unless a command follows."""
    if workdir:
        _change_directory(workdir)
    if ctx.invoked_subcommand is None:
        _with_settings(ctx, flags, lambda settings: _serve(settings, load_app(settings)))


#: Options of Celery that say nothing about the cluster of the demo.
_NOT_FOR_DEMO: Final = ("app", "broker", "broker_api", "celery_config", "result_backend", "set")


@main.command(cls=Command, params=_params(without=_NOT_FOR_DEMO), context_settings=_CONTEXT)
@click.pass_context
def demo(ctx: click.Context, /, **flags: object) -> None:
    """Start a small sample cluster and watch it; needs no server."""
    from .demo import run_demo

    before = ctx.parent.params if ctx.parent else {}
    both = {name: flags[name] if _is_given(flags[name]) else before.get(name) for name in flags}
    ctx.exit(_with_settings(ctx, both, run_demo))


@main.command("convert-config", cls=Command, context_settings=_CONTEXT)
@click.argument("file", metavar="FILE", default=FLOWER_FILE)
def convert_config(file: str) -> None:
    """Print a flowerconfig.py as a taskmon.toml, without running it."""
    from .config_conversion import convert

    try:
        click.echo(convert(Path(file)), nl=False)
    except InvalidSetting as exc:
        raise BadUsage(f"{file} {exc.rule}") from None


@main.command("hash-password", cls=Command, context_settings=_CONTEXT)
def hash_password_command() -> None:
    """Hash a password for --basic-auth.

    Asks for the password at a terminal, otherwise reads standard input.
    """
    from .credentials.passwords import hash_password

    interactive = is_terminal()
    if interactive:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not password or len(password) > 600 or "\n" in password:
        raise BadUsage("The password must be one line of 1 to 600 characters")
    click.echo(hash_password(password))
    if interactive:
        click.echo('Use it in taskmon.toml as basic_auth = ["user:<hash>"]; quote it in a shell.', err=True)


def _describe_token(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that describe a token that is to be made."""
    name = click.option("--name", help="Name of its user: letters, digits and . _ @ -", metavar="NAME")
    role = click.option(
        "--role",
        type=click.Choice(["viewer", "operator", "admin"], case_sensitive=False),
        help="Role: viewer (the default), operator or admin.",
    )
    return name(role(_describe_expiry(command)))


def _describe_expiry(command: Callable[..., None]) -> Callable[..., None]:
    expires = click.option(
        "--expires",
        metavar="DATE|TIME",
        help="Date of expiry, in UTC, or lifetime: 2030-12-31, 30d. [90d]",
    )
    never = click.option("--never", is_flag=True, help="Never expire.")
    return expires(never(command))


def _describe_scopes(command: Callable[..., None]) -> Callable[..., None]:
    scope = click.option(
        "--scope",
        "scopes",
        multiple=True,
        metavar="SCOPE",
        help="Scope, instead of --role: metrics, read, read:no-args, or publish:shop.* for the tasks "
        "whose names begin with shop.; repeat it for several.",
    )
    rate = click.option("--rate-limit", metavar="RATE", help="Maximum request rate, such as 600/m.")
    return scope(rate(command))


@main.group("token", cls=Group, context_settings=_CONTEXT, invoke_without_command=True)
@_describe_token
@click.pass_context
def token(ctx: click.Context, /, name: str | None, role: str | None, expires: str | None, never: bool) -> None:
    """Make a token; show it once, with the line to configure.

    The commands below manage the tokens of --token-file, which can be revoked without a restart.
    """
    from .auth import Role
    from .credentials.token_commands import read_expiry
    from .credentials.tokens import new_token

    if ctx.invoked_subcommand is not None:
        return
    if name is None:
        raise BadUsage("Missing option '--name'.")
    try:
        ends = read_expiry(expires, never=never)
        secret, line = new_token(name, Role.parse(role or "viewer"), ends.date() if ends else None)
    except InvalidArgument as exc:
        raise BadUsage(f"--{exc}") from None
    click.echo(
        f"The token, which is shown only now:\n\n    {secret}\n\n"
        "What to put into the configuration, which holds its hash only; one of these:\n\n"
        f'    in {DEFAULT_FILE}     token = ["{line}"]\n'
        f"    in the environment  TASKMON_TOKEN={line}\n"
        f"    as a flag           --token={line}\n\n"
        f"How to use it:\n\n    curl -H 'Authorization: Bearer {secret}' http://127.0.0.1:5555/api/tasks"
    )


_FILE: Final = click.option("--file", metavar="PATH", help="Token file; by default that of --token-file.")


@token.command("create", cls=Command, context_settings=_CONTEXT)
@_describe_token
@_describe_scopes
@_FILE
def create_token(
    name: str | None,
    role: str | None,
    expires: str | None,
    never: bool,
    scopes: tuple[str, ...],
    rate_limit: str | None,
    file: str | None,
) -> None:
    """Make a token in the token file and show it once."""
    from .credentials.token_commands import create, read_expiry

    if name is None:
        raise BadUsage("Missing option '--name'.")
    if role and scopes:
        raise BadUsage("--scope says all that a token allows; it cannot stand beside --role")
    _in_token_file(
        file,
        lambda path: create(path, name, role or "viewer", read_expiry(expires, never=never), scopes, rate_limit),
    )


@token.command("rotate", cls=Command, context_settings=_CONTEXT)
@click.argument("which", metavar="ID|NAME")
@click.option(
    "--overlap",
    default="7d",
    metavar="TIME",
    help="How long the old token still works: 12h, or 0 for not at all. [7d]",
)
@_describe_expiry
@_FILE
def rotate_token(which: str, overlap: str, expires: str | None, never: bool, file: str | None) -> None:
    """Replace a token; the old one still works for a while.

    Without --expires and --never the new token has the lifetime of the old one.
    """
    from .credentials.token_commands import rotate

    _in_token_file(file, lambda path: rotate(path, which, overlap, expires, never=never))


@token.command("list", cls=Command, context_settings=_CONTEXT)
@_FILE
def list_tokens(file: str | None) -> None:
    """List the tokens of the token file, without secrets."""
    from .credentials.token_commands import list_all

    _in_token_file(file, list_all)


@token.command("revoke", cls=Command, context_settings=_CONTEXT)
@click.argument("token_id", metavar="ID")
@_FILE
def revoke_token(token_id: str, file: str | None) -> None:
    """Revoke a token of the token file, without a restart."""
    from .credentials.token_commands import revoke

    _in_token_file(file, lambda path: revoke(path, token_id))


def _in_token_file(file: str | None, command: "Callable[[Path], str]") -> None:
    """Run a command on the file and print what it says."""
    try:
        path = Path(file) if file else load_settings({}, os.environ, Path.cwd()).settings.token_file
        if path is None:
            raise BadUsage("There is no file of tokens; name it with --file or TASKMON_TOKEN_FILE")
        click.echo(command(path))
    except (InvalidSetting, InvalidArgument) as exc:
        raise BadUsage(str(exc)) from None
    except OSError as exc:
        raise NotStarted(f"The file of tokens cannot be written: {exc.strerror}") from None


@main.group("session", cls=Group, context_settings=_CONTEXT)
def session() -> None:
    """End sessions of users who logged in with a provider."""


@session.command("revoke", cls=Command, context_settings=_CONTEXT)
@click.argument("user", metavar="USER")
@click.option("--file", metavar="PATH", help="File of ended sessions; by default --session-file, or the history.")
def revoke_sessions(user: str, file: str | None) -> None:
    """End all current sessions of USER.

    USER is the name or e-mail address that taskmon shows, or the provider's subject. A running taskmon notices
    within seconds.
    """
    from .session_commands import revoke_all

    try:
        settings = Settings() if file else load_settings({}, os.environ, Path.cwd()).settings
        click.echo(revoke_all(settings, Path(file) if file else None, user))
    except (InvalidSetting, InvalidArgument) as exc:
        raise BadUsage(str(exc)) from None
    except Unavailable as exc:
        raise NotStarted(str(exc)) from None


@click.command("taskmon", cls=Command, help=_HELP, params=[*_params(), _WORKDIR], context_settings=_CONTEXT)
@click.pass_context
def celery_command(ctx: click.Context, /, workdir: str | None, **flags: object) -> None:
    """Run the server as `celery -A proj taskmon`; the app is celery's, unless --app follows the command."""
    if workdir:
        _change_directory(workdir)
    # Celery hands over the preload options of its app as well: load_settings gets none of them.
    mine = {name: value for name, value in flags.items() if name in OPTION}
    before = ctx.parent
    for name in ("broker", "result_backend"):
        if not mine[name] and before and before.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            mine[name] = before.params[name]
    has_app = before is not None and before.get_parameter_source("app") is not ParameterSource.DEFAULT

    def run(settings: Settings) -> None:
        own = mine["app"] or (settings.app and not has_app)
        _serve(settings, load_app(settings) if own else adopt_app(ctx.obj.app, settings, "the app"))

    _with_settings(ctx, mine, run)


def is_terminal() -> bool:
    """Tell whether somebody sits at standard input."""
    return sys.stdin.isatty()


def _is_given(value: object) -> bool:
    return value is not None and value != ()


def _change_directory(path: str) -> None:
    try:
        check_directories("workdir", Path(path))
        os.chdir(path)
    except OSError as exc:
        raise BadUsage(f"--workdir must be a directory one may enter: {exc.strerror}") from None
    except InvalidSetting as exc:
        raise BadUsage(str(exc)) from None


def _with_settings(ctx: click.Context, flags: Mapping[str, object], run: Callable[[Settings], int | None]) -> int:
    """Load the settings, set up the log, and run; a bad option ends the program with its sentence."""
    from .credentials.passwords import hash_passwords
    from .logs import configure_logging
    from .signals import Signals, StopRequested

    settings = Settings()
    try:
        with Signals():
            configure_logging(settings)  # for what is logged before the options are known, as on SIGUSR1
            settings, notes, files = load_settings(
                flags, os.environ, Path.cwd(), ctx.meta.get(NOT_NEEDED, ()), ctx.meta.get(AS_FLOWER, ())
            )
            configure_logging(settings)
            if files:
                logger.info("Options were read from %s", ", ".join(map(str, files)))
            for note in notes:
                logger.warning(note)
            if settings.anonymous_role:
                logger.warning("Everybody has the role %s, without credentials", settings.anonymous_role)
            if settings.trust_everyone and settings.trusted_proxies:
                logger.warning("--trust-everyone: whoever connects from --trusted-proxies can name any user")
            return run(hash_passwords(settings)) or 0
    except StopRequested as exc:
        logger.info("Stopping on %s; stopped", exc)
        return 0
    except HistoryRefused as exc:
        option = "--persistent" if settings.keeps_db else "--history"
        raise BadUsage(f"{option} cannot be used: {exc.reason}") from None
    except InvalidSetting as exc:
        raise BadUsage(str(exc)) from None


def _serve(settings: Settings, celery_app: "Celery") -> None:
    import asyncio

    from .app import serve
    from .http.server import listeners

    places = listeners(settings)
    try:
        # Tornado would raise a bare ValueError.
        paths = [where.unix_socket for where in places if where.unix_socket is not None]
        if any(path.exists() and not path.is_socket() for path in paths):
            raise FileExistsError(EEXIST, "there is a file that is no socket")
        asyncio.run(serve(settings, celery_app))
    except OSError as exc:
        raise NotStarted(f"Cannot listen on {' or '.join(map(str, places))}: {exc.strerror or exc}") from None
