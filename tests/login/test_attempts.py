"""Attempts to log in that are used up: whoever uses up many makes taskmon forget none of others."""

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from taskmon.errors import LoginFailed
from taskmon.login.attempts import ATTEMPTS_PER_PART, PARTS, Attempts


class Scene:
    """Attempts, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.attempts = Attempts(["secret"], secure=False, clock=lambda: self.now)

    def begin(self, client: str) -> tuple[str, str]:
        attempt, cookie = self.attempts.begin("/", client)
        return attempt.state, cookie.partition(";")[0]

    def take(self, begun: tuple[str, str]) -> None:
        state, cookie = begun
        request = HTTPServerRequest(
            start_line=RequestStartLine("GET", "/", "HTTP/1.1"),
            headers=HTTPHeaders({"Host": "localhost", "Cookie": cookie}),
        )
        self.attempts.take(request, state)


def other_part(client: str) -> str:
    """Return an address whose attempts are remembered elsewhere than those of a client."""
    return next(name for n in range(100) if hash(name := f"198.51.100.{n}") % PARTS != hash(client) % PARTS)


def test_aborted_logins_of_one_address_push_out_nobody_else() -> None:
    scene = Scene()
    stranger = "192.0.2.1"
    mine = scene.begin(other_part(stranger))
    own = scene.begin(stranger)
    for _ in range(10_050):
        scene.now += 0.01
        scene.take(scene.begin(stranger))
    scene.take(mine)
    with pytest.raises(LoginFailed):
        scene.take(own)
    assert sum(map(len, scene.attempts._spent)) <= ATTEMPTS_PER_PART + 1


def test_an_attempt_counts_once() -> None:
    scene = Scene()
    begun = scene.begin("192.0.2.1")
    scene.take(begun)
    with pytest.raises(LoginFailed, match="used already"):
        scene.take(begun)
