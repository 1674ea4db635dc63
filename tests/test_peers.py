"""Whom a proxy speaks for: only what proxies of ours wrote is believed."""

import socket
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import serving

from taskmon.errors import InvalidSetting
from taskmon.settings import Settings
from taskmon.trusted_proxies import Peers, key_of

PEERS = Peers([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("127.0.0.1")])


@pytest.mark.parametrize(
    ("family", "address", "trusted"),
    [
        (socket.AF_INET, "10.1.2.3", True),
        (socket.AF_INET, "11.1.2.3", False),
        (socket.AF_INET6, "2001:db8::1", True),
        (socket.AF_INET6, "::ffff:10.1.2.3", True),
        (socket.AF_INET6, "fe80::1%eth0", False),
        (socket.AF_INET, "unix", False),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_UNIX, "unix", True),
    ],
)
def test_who_is_a_proxy_of_ours(family: int, address: str, trusted: bool) -> None:
    assert PEERS.trusts(family, address) is trusted
    assert Peers([]).trusts(family, address) is (family == socket.AF_UNIX)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        (["192.0.2.7 ,10.0.0.9 , 10.0.0.8"], "192.0.2.7"),
        (["10.0.0.9"], "10.0.0.9"),
        (["unknown"], "10.0.0.1"),
        (["192.0.2.7, unknown, 10.0.0.9"], "10.0.0.9"),
        ([""], "10.0.0.1"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db9::1]:4711"], "2001:db9::1"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7," * 5000 + "10.0.0.9"], "192.0.2.7"),
        (["10.0.0.9," * 100], "10.0.0.1"),
    ],
)
def test_the_walk_from_the_right(forwarded: list[str], client: str) -> None:
    assert PEERS.client("10.0.0.1", forwarded) == client


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_header_gives_an_address(forwarded: list[str]) -> None:
    assert PEERS.client("10.0.0.1", forwarded)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unix", "unix", True),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


@pytest.mark.parametrize("network", ["*", "0.0.0.0/0", "::/0", "proxy.example.com", "10.0.0.1/8", "", "10.0.0.0/33"])
def test_networks_that_are_not_trusted(network: str) -> None:
    with pytest.raises(InvalidSetting, match="--trusted-proxies must"):
        Settings(trusted_proxies=[network])


TOO_WIDE = [
    ["0.0.0.0/0"],
    ["0.0.0.0/1"],
    ["128.0.0.0/1"],
    ["10.0.0.0/7"],
    ["::/0"],
    ["::/1"],
    ["8000::/1"],
    ["2000::/3"],
    ["2000::/15"],
    ["10.0.0.0/8", "11.0.0.0/8"],
    ["10.0.0.1", "128.0.0.0/2"],
    [f"{first}.0.0.0/8" for first in range(0, 40, 2)],
]


@pytest.mark.parametrize("networks", TOO_WIDE, ids=lambda networks: networks[0])
def test_networks_that_hold_more_than_proxies(networks: list[str]) -> None:
    with pytest.raises(InvalidSetting, match=r"--trusted-proxies must not be as wide as .*--trust-everyone"):
        Settings(trusted_proxies=networks)
    assert Settings(trusted_proxies=networks, trust_everyone=True).trusted_proxies


def test_networks_that_proxies_are_in() -> None:
    networks = (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.1",
        "fc00::/7",
        "fe80::/10",
        "2a06:98c0::/29",
    )
    assert len(Settings(trusted_proxies=networks).trusted_proxies) == len(networks)


async def test_the_client_of_a_trusted_proxy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon.audit")
    for proxies, client in (("127.0.0.1", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")):
        caplog.clear()
        async with serving(trusted_proxies=proxies) as served:
            headers = {"X-Forwarded-For": "6.6.6.6, 192.0.2.7", "X-Real-Ip": "6.6.6.6", "X-Forwarded-Proto": "https"}
            await served.request("POST", "/api/tasks/revoke", headers)
        (line,) = [record.getMessage() for record in caplog.records if record.name == "taskmon.audit"]
        assert f'"client": "{client}"' in line


async def test_wrong_passwords_are_counted_by_the_client_behind_the_proxy() -> None:
    async with serving(trusted_proxies="127.0.0.1") as served:
        for _ in range(12):
            answer = await served.get("/api/tasks", {"Authorization": "Bearer x", "X-Forwarded-For": "192.0.2.7"})
        assert answer.status == 429
        answer = await served.get("/api/tasks", {"Authorization": "Bearer x", "X-Forwarded-For": "192.0.2.8"})
        assert answer.status == 401
