"""Who is at the other end of a connection, and whom a proxy of ours speaks for. Pure."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AF_UNIX
from typing import Final

Network = IPv4Network | IPv6Network

#: What an address is where there is none: the other end of a Unix socket.
UNIX: Final = "unix"

_MAX_HOPS: Final = 50
_PORT = re.compile(r"\[([^\]]*)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+):\d{1,5}")


class Peers:
    """Tells proxies of ours from strangers: whoever connects to a Unix socket, or from one of these networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, family: int, address: str) -> bool:
        """Tell whether a connection comes from a proxy of ours; its socket's family decides, not what it says."""
        if family == AF_UNIX:
            return True
        found = read_address(address) if self._networks else None
        return found is not None and self._holds(found)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Give the client's address: the values of X-Forwarded-For from the right, over proxies of ours only.

        What cannot be read ends the walk: the last address that could be is the client's.
        """
        client = peer
        hops = [hop for value in reversed(forwarded) for hop in reversed(value.split(",")[-_MAX_HOPS:])]
        for hop in hops[:_MAX_HOPS]:
            match = _PORT.fullmatch(hop.strip())
            address = read_address((match[1] or match[2]) if match else hop.strip())
            if address is None:
                return client
            client = str(address)
            if not self._holds(address):
                return client
        return client

    def _holds(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, an IPv4 address inside an IPv6 one as the former; None for what is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def key_of(address: str) -> str:
    """Give what a client is counted by: its address, for IPv6 its /64, which one client has to itself."""
    found = read_address(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found) if found is not None else address[:64]
