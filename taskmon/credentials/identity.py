"""Who a proxy says is there: the rules for names, and what becomes of them. Pure."""

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tornado.httputil import HTTPHeaders

from ..auth import Role, User
from ..errors import MalformedCredentials, PermissionDenied
from ..settings import MAX_NAME
from .roles import Roles

logger = logging.getLogger(__name__)

_MAX_GROUPS: Final = 8192


def make_user(name: str, address: str | None, groups: Iterable[str], roles: Roles) -> User:
    """Give the user; raise PermissionDenied for whom no rule lets in."""
    role: Role | None = roles.find(list(groups), address)
    if role is None:
        raise PermissionDenied(f"{name} has no role here")
    return User(name, role, "proxy", address=address)


def read_single(headers: HTTPHeaders, name: str, *, longest: int = MAX_NAME, empty: bool = False) -> str | None:
    """Give the only value of a header, None without one; raise MalformedCredentials unless it is plain text."""
    values = headers.get_list(name)
    if not values:
        return None
    if len(values) > 1:
        raise MalformedCredentials(f"{name} came more than once")
    try:
        value = _decode(values[0])
    except UnicodeError:
        raise MalformedCredentials(f"{name} is not UTF-8") from None
    if not value and not empty:
        raise MalformedCredentials(f"{name} is empty")
    if len(value) > longest or not value.isprintable():
        raise MalformedCredentials(f"{name} is longer than {longest} characters, or is no plain text")
    return value


def read_groups(headers: HTTPHeaders, name: str) -> list[str]:
    """Give the groups in a header, with commas between them; without the header there are none."""
    return split_groups(read_single(headers, name, longest=_MAX_GROUPS, empty=True) or "")


def split_groups(text: str) -> list[str]:
    """Split a list of groups at its commas."""
    return [group for piece in text.split(",") if (group := piece.strip()) and len(group) <= MAX_NAME]


def check_spelling(headers: HTTPHeaders, names: frozenset[str]) -> None:
    """Raise MalformedCredentials for a header that some take for one of `names`, such as X_Forwarded_User."""
    for name in headers._as_list:
        alias = alias_of(name)
        if alias is not None and alias in names:
            raise MalformedCredentials(f"{name[:64]} is another spelling of a header that says who asks")


@lru_cache(maxsize=2048)
def alias_of(name: str) -> str | None:
    """Give the name that a header's name is another spelling of, in lower case; None where it is spelled plainly."""
    plain = "".join(char if char.isalnum() else "-" for char in name.lower())
    return plain if plain != name.lower() else None


def _decode(value: str) -> str:
    """Read a header as UTF-8, whose bytes Tornado takes for Latin-1; raise UnicodeError where it is no UTF-8."""
    return value if value.isascii() else value.encode("latin-1").decode()
