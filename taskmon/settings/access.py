"""Kinds of values that say who gets in: users, tokens, roles, providers. Parsers are as in `kinds.py`."""

import re
from datetime import date
from typing import Final

from ..errors import InvalidSetting
from .kinds import read_public_url, read_text
from .secret_rules import is_sample

SCRYPT_HASH: Final = re.compile(
    r"\$scrypt\$ln=(1[4-8]),r=([1-9]|1[0-6]),p=([1-4])\$([A-Za-z0-9+/]{22}|[A-Za-z0-9+/]{43})\$([A-Za-z0-9+/]{43})"
)
TOKEN_LINE: Final = re.compile(
    r"tm_(?P<id>[0-9a-f]{8}):(?P<digest>[0-9a-f]{64}):(?P<role>viewer|operator|admin)"
    r":(?P<name>[A-Za-z0-9._@-]{1,64})(?::(?P<expires>\d{4}-\d\d-\d\d))?"
)
ROLE_RULE: Final = re.compile(
    r"(?P<role>viewer|operator|admin)=(?P<kind>group|address|domain):(?P<name>\S(?:.{0,254}\S)?)"
)
_PUBLISH_RULE: Final = re.compile(r"(?:(?:operator|admin)=)?[^\s=,]{1,255}")
#: What a token may be limited to; a pattern of task names has * for anything.
SCOPE: Final = r"metrics|read|read:no-args|publish:[!-+\--~]{1,200}"
#: How many requests a token may make in a second, a minute or an hour.
RATE: Final = r"[1-9][0-9]{0,6}/[smh]"
TOKEN_RATE: Final = (re.compile(RATE), "must be a number of requests in a second, a minute or an hour: 600/m")
#: Characters of a user's name, at the most.
MAX_NAME: Final = 256
_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_ROLE_NAMES: Final = {"address": re.compile(rf"[!-)+-?A-~]{{1,64}}@{_DOMAIN}"), "domain": re.compile(_DOMAIN)}
PROVIDERS: Final = ("google", "github", "gitlab", "okta", "oidc")
_FLOWER_PROVIDERS: Final = {
    "GoogleAuth2LoginHandler": "google",
    "GithubLoginHandler": "github",
    "GitLabLoginHandler": "gitlab",
    "OktaLoginHandler": "okta",
}
_ALLOWED_RULE: Final = (
    "must list addresses such as ann@example.com and domains such as *@example.com; other patterns are not taken"
)
_FOREIGN_HASH = re.compile(r"\$(?:2[abxy]|5|6|y|apr1|argon2\w*|pbkdf2[\w-]*|scrypt)\$|\{\w+\}")
# Flower's pattern is a list where all its alternatives are addresses and domains.
ALLOWED_COMMA = re.compile(r"[,|]")
# A hash holds commas itself ("ln=14,r=8,p=1"): they do not end an entry.
CREDENTIAL_COMMA = re.compile(r",(?!r=\d+,p=\d+\$|p=\d+\$)")
OIDC_SCOPE: Final = (
    re.compile(r"openid(?: [!#-\[\]-~]+)*"),
    "must be scopes with blanks between them, of which openid is the first",
)
OIDC_CLAIM: Final = (re.compile(r"[!-~]{1,200}"), "must be the name of a claim, or a path such as realm_access.roles")


def is_name(name: str) -> bool:
    """Whether a text can be the name of a user: printable, bounded, and without a comma, which joins two names."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and "," not in name


def read_user_and_password(value: object) -> str:
    """Read `user:password`, or `user:hash` with a hash of our own."""
    read_text(value)
    user, _, password = str(value).lstrip().partition(":")
    if not user.strip() or not password:
        raise ValueError("must be user:password")
    if not is_name(user):
        raise ValueError(f"must have a user of at most {MAX_NAME} printable characters, none of them a comma")
    if is_sample(password):
        raise ValueError("holds the sample of a manual, which everybody knows; make one with `taskmon hash-password`")
    if not SCRYPT_HASH.fullmatch(password):
        if _FOREIGN_HASH.match(password):
            raise ValueError("holds a hash taskmon cannot check; make one with `taskmon hash-password`")
        if len(f"{user}:{password}".encode()) > 700:
            raise ValueError("must be at most 700 bytes for user and password")
    return f"{user}:{password}"


def read_user_role(value: object) -> str:
    """Read `user=role`; a user may have = in its name."""
    user, equals, role = read_text(value).rpartition("=")
    if not user or not equals or role not in ("viewer", "operator", "admin"):
        raise ValueError("must be user=viewer, user=operator or user=admin")
    return f"{user}={role}"


def read_token_line(value: object) -> str:
    """Read a line of `taskmon token`: id, SHA-256, role, name and day of expiry."""
    match = TOKEN_LINE.fullmatch(read_text(value))
    if not match:
        raise ValueError("must be a line printed by `taskmon token`, which holds a hash and not the token")
    if is_sample(match["digest"]):
        raise ValueError("is the sample of a manual, which everybody knows; make one with `taskmon token`")
    try:
        date.fromisoformat(match["expires"] or "2000-01-01")
    except ValueError:
        raise ValueError("must end in a date such as 2030-12-31, or have none") from None
    return match[0]


def read_publish_rule(value: object) -> str:
    """Read `role=pattern`, or a further pattern for the role before it."""
    text = read_text(value)
    if not _PUBLISH_RULE.fullmatch(text):
        raise ValueError("must be like operator=proj.*, and further patterns after it; * is anything")
    return text


def complete_publish_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    """Put before each pattern the role that was named last; raises InvalidSetting where none was."""
    role, complete = "", []
    for rule in rules:
        named, equals, pattern = rule.rpartition("=")
        role = named if equals else role
        if not role:
            raise InvalidSetting("publish_tasks", "must begin with a role, as in operator=proj.*", rule)
        complete.append(f"{role}={pattern}")
    return tuple(complete)


def read_role_rule(value: object) -> str:
    """Read `role=kind:name`, which gives a group, an address or a domain a role."""
    match = ROLE_RULE.fullmatch(read_text(value))
    if not match:
        raise ValueError("must be like admin=group:ops, operator=address:ann@example.com or viewer=domain:a.org")
    name = _ROLE_NAMES.get(match["kind"])
    if name and not name.fullmatch(match["name"]):
        raise ValueError(f"must name an exact {match['kind']}, without wildcards")
    return match[0]


def read_issuer(value: object) -> str:
    """Read an issuer as it is: whether it ends in a slash matters, as it is compared exactly."""
    text = read_text(value)
    if not text.startswith("https://") or read_public_url(text) != text.rstrip("/"):
        raise ValueError("must be a URL that begins with https://")
    return text


def read_provider(value: object) -> str:
    """Read the name of a provider, or Flower's name of its handler."""
    word = read_text(value)
    name = _FLOWER_PROVIDERS.get(word.removeprefix("flower.views.auth.")) or word.lower()
    if name not in PROVIDERS:
        raise ValueError(f"must be {', '.join(PROVIDERS[:-1])} or {PROVIDERS[-1]}")
    return name


def read_allowed(value: object) -> str:
    """Read whom `--auth` lets in: an address, or @ and a domain; Flower's patterns that say no more are known."""
    text = read_text(value).removeprefix("^").removesuffix("$")
    text = re.sub(r"\\([.+_@-])", r"\1", text)
    name, at, domain = text.rpartition("@")
    if not at or not _ROLE_NAMES["domain"].fullmatch(domain):
        raise ValueError(_ALLOWED_RULE)
    if name in ("", "*", ".*", ".+"):
        return f"@{domain.lower()}"
    if not _ROLE_NAMES["address"].fullmatch(text) or re.search(r"[?()\[\]{}^$|\\]", name):
        raise ValueError(_ALLOWED_RULE)
    return text.lower()
