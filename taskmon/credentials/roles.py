"""Roles: what the groups and the address of somebody allow, by the rules of `--roles`. Pure."""

import re
from collections.abc import Collection, Iterable
from typing import Final

from ..auth import Role
from ..settings import ROLE_RULE

MAX_ADDRESS: Final = 254

# ASCII only: lower case makes ASCII letters of some others, and then one address would pass for another.
# Without a comma, which joins two headers.
_ADDRESS = re.compile(r"[!-+\--?A-~]+@[A-Za-z0-9.-]+")


class Roles:
    """Find roles; a rule only adds to what others give, and `default` is for those whom no rule names.

    A rule is `<role>=group:<name>`, `<role>=address:<name>@<domain>` or `<role>=domain:<domain>`. All compare
    exactly: groups as they are written, addresses and domains in lower case, a domain without those below it.
    """

    def __init__(self, rules: Iterable[str], default: Role | None) -> None:
        self.default = default
        self._roles: dict[tuple[str, str], Role] = {}
        for rule in rules:
            match = ROLE_RULE.fullmatch(rule)
            if match is None:
                raise ValueError("not a rule of --roles")
            key = (match["kind"], match["name"] if match["kind"] == "group" else match["name"].lower())
            self._roles[key] = max(Role.parse(match["role"]), self._roles.get(key, Role.VIEWER))

    @property
    def groups(self) -> frozenset[str]:
        """The groups that rules name; no other group matters."""
        return frozenset(name for kind, name in self._roles if kind == "group")

    def granted(self, groups: Collection[str], address: str | None) -> Role | None:
        """Give the highest role that a rule gives, or None; `address` must be known to be theirs."""
        keys = [("group", group) for group in groups]
        known = read_address(address) if address else None
        if known:
            keys += [("address", known), ("domain", known.partition("@")[2])]
        return max((self._roles[key] for key in keys if key in self._roles), default=None)

    def find(self, groups: Collection[str], address: str | None) -> Role | None:
        """Give the highest role that a rule or the default gives, or None: they may not come in."""
        found = [role for role in (self.granted(groups, address), self.default) if role is not None]
        return max(found, default=None)


class Admission:
    """Says who may log in, and as what: those whom `--auth` or a rule names; everybody where `--auth` is empty.

    An entry of `--auth` is an address, or `@` and a domain.
    """

    def __init__(self, roles: Roles, allowed: Iterable[str] = ()) -> None:
        self._roles = roles
        self._allowed = frozenset(allowed)

    def role_of(self, groups: Collection[str], address: str | None) -> Role | None:
        """Give their role, or None: they stay out."""
        known = read_address(address) if address else None
        named = known is not None and not self._allowed.isdisjoint((known, "@" + known.partition("@")[2]))
        if self._allowed and not named and self._roles.granted(groups, address) is None:
            return None
        return self._roles.find(groups, address)


def read_address(text: object) -> str | None:
    """Give an e-mail address in lower case, or None for what is none: ASCII, one `@`, 254 characters at most."""
    if not isinstance(text, str) or len(text) > MAX_ADDRESS or not _ADDRESS.fullmatch(text):
        return None
    return text.lower()
