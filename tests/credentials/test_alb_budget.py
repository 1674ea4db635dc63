"""Keys of load balancers that are asked for: whoever asks for many spends a budget of their own."""

from typing import NamedTuple

import pytest

from taskmon.credentials import alb
from taskmon.errors import AssertionRefused

KEY = b"-----BEGIN PUBLIC KEY-----\n"


class Document(NamedTuple):
    status: int
    body: bytes


class Keys:
    """The keys of a load balancer, of which only `good` is there."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.asked: list[str] = []
        self.verifier = alb.AlbVerifier("arn", "https://keys.invalid/", clock=lambda: self.now)
        self.verifier._fetcher.ask = self.ask  # type: ignore[assignment,method-assign]

    async def ask(self, url: str) -> Document:
        kid = url.rpartition("/")[2]
        self.asked.append(kid)
        return Document(200, KEY) if kid == "good" else Document(404, b"")

    async def find(self, kid: str, client: str) -> bool:
        try:
            await self.verifier._find(kid, client)
        except AssertionRefused:
            return False
        return True


async def test_a_stranger_spends_no_budget_but_their_own() -> None:
    keys = Keys()
    for number in range(50):
        assert not await keys.find(f"bad{number}", "192.0.2.1")
    assert len(keys.asked) == alb._FETCHES_PER_CLIENT
    assert await keys.find("good", "192.0.2.2")
    assert await keys.find("good", "192.0.2.1"), "what is known costs nothing"
    keys.now += alb.PAUSE
    assert not await keys.find("bad-later", "192.0.2.1")
    assert keys.asked[-1] == "bad-later"


async def test_many_strangers_leave_each_other_client_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alb, "_MAX_FETCHES", 40)
    keys = Keys()
    for client in range(10):
        for number in range(10):
            assert not await keys.find(f"bad{client}-{number}", f"192.0.2.{client}")
    assert len(keys.asked) < 40
    assert await keys.find("good", "198.51.100.1")
