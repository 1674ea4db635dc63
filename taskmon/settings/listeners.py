"""Where taskmon listens, and whom it trusts there: how `--listen` and `--trusted-proxies` are read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pathlib import Path
from typing import Final

from .kinds import ADDRESS, read_path, read_socket_path, read_text

Network = IPv4Network | IPv6Network

#: The ways of getting in that a listener may have.
WAYS: Final = ("basic", "token", "session", "proxy", "anonymous")

#: The comma between two listeners, not the one before an option of the same listener.
LISTENER_COMMA: Final = re.compile(r",(?!\s*(?:tls|auth|certfile|keyfile|ca_certs)\s*(?:[=,]|$))")

_PRIVATE_IPV6: Final = (IPv6Network("fc00::/7"), IPv6Network("fe80::/10"))
_PLACE = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
_FORM: Final = (
    "must be like 0.0.0.0:5556,auth=token,tls or unix:/run/taskmon.sock,auth=proxy; options are "
    f"auth={'+'.join(WAYS)}, tls, certfile=, keyfile=, ca_certs="
)


@dataclass(frozen=True)
class Listener:
    """One place to listen; `auth` None is every way there is, `tls` without files takes those of the options."""

    address: str = ""
    port: int = 0
    unix_socket: Path | None = None
    auth: frozenset[str] | None = None
    tls: bool = False
    certfile: Path | None = None
    keyfile: Path | None = None
    ca_certs: Path | None = None

    def __str__(self) -> str:
        if self.unix_socket is not None:
            return str(self.unix_socket)
        return f"{self.address} port {self.port}"


def read_listener(value: object) -> Listener:
    """Read one value of --listen; raise ValueError."""
    if isinstance(value, Listener):
        return value
    place, *options = [piece.strip() for piece in read_text(value).split(",")]
    files: dict[str, Path] = {}
    auth, tls = None, False
    for option in options:
        name, _, given = option.partition("=")
        if name == "tls" and not given:
            tls = True
        elif name == "auth":
            auth = _read_ways(given)
        elif name in ("certfile", "keyfile", "ca_certs") and given:
            files[name] = read_path(given)
        else:
            raise ValueError(_FORM)
    if ("certfile" in files) != ("keyfile" in files):
        raise ValueError("must have certfile= and keyfile= together")
    return Listener(**_read_place(place), auth=auth, tls=tls or bool(files), **files)  # type: ignore[arg-type]


def read_network(value: object) -> Network:
    """Read an address or a network in CIDR notation."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        return ip_network(read_text(value))
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, not names, not *") from None


def find_too_wide(networks: Iterable[Network]) -> Network | None:
    """Return a network that is too wide for proxies only, also one that several of these make up together; else None.

    The widest that are not: 10.0.0.0/8 and its like, a /16 of IPv6, and the private addresses of IPv6.
    """
    for version, widest in ((4, 8), (6, 16)):
        found = [network for network in networks if network.version == version and not _is_private(network)]
        merged = list(collapse_addresses(found))  # type: ignore[type-var]
        for network in merged:
            if network.prefixlen < widest:
                return network
        if sum(network.num_addresses for network in merged) > 1 << (merged[0].max_prefixlen - 4 if merged else 0):
            return merged[0]
    return None


def _is_private(network: Network) -> bool:
    return any(network.subnet_of(private) for private in _PRIVATE_IPV6 if isinstance(network, IPv6Network))


def _read_ways(text: str) -> frozenset[str]:
    ways = frozenset(text.split("+"))
    if not ways <= set(WAYS):
        raise ValueError(f"must have auth= of {', '.join(WAYS)}, several joined by +")
    return ways


def _read_place(text: str) -> dict[str, object]:
    if text.startswith("unix:"):
        return {"unix_socket": read_socket_path(text.removeprefix("unix:"))}
    match = _PLACE.fullmatch(text)
    host = (match["six"] or match["host"] or "0.0.0.0") if match else ""
    if match is None or not ADDRESS.fullmatch(host) or int(match["port"]) > 65_535:
        raise ValueError(_FORM)
    return {"address": host, "port": int(match["port"])}
