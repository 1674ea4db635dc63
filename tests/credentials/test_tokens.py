"""Bearer tokens: known by their digest, until they end."""

import hashlib
import math
import re
from datetime import UTC, date, datetime

import pytest
from asking import Clock, request

from taskmon.auth import ROLES, Role, User
from taskmon.credentials.tokens import TokenAuthenticator, new_token
from taskmon.errors import AuthenticationFailed, InvalidArgument, TooManyRequests
from taskmon.settings import Settings


def test_token_and_its_line() -> None:
    token, line = new_token("grafana", Role.OPERATOR, date(2030, 12, 31))
    assert re.fullmatch(r"tm_[0-9a-f]{8}_[0-9a-f]{40}_[0-9a-f]{8}", token)
    assert line == f"{token[:11]}:{hashlib.sha256(token.encode()).hexdigest()}:operator:grafana:2030-12-31"
    assert Settings(token=(line,)).token == (line,)
    assert token.split("_")[2] not in line
    assert new_token("x", Role.VIEWER)[0] != new_token("x", Role.VIEWER)[0]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "x" * 65, "a\n", "é"])
def test_token_name_is_checked(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^name must be 1 to 64 letters"):
        new_token(name, Role.VIEWER)


def test_line_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a line"):
        TokenAuthenticator(["x"])


@pytest.mark.parametrize("role", list(ROLES))
def test_right_token(role: Role) -> None:
    token, line = new_token("grafana", role)
    authenticator = TokenAuthenticator([new_token("other", Role.ADMIN)[1], line])
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert authenticator.authenticate(request(f"{scheme} {token}")) == User(
            "grafana", role, "token", credential=token[:11]
        )
    authenticator.close()


@pytest.mark.parametrize("header", [(), ("Basic x",), ("",), ("Bearerx",)])
def test_token_leaves_what_is_not_its_own(header: tuple[str, ...]) -> None:
    assert TokenAuthenticator([]).authenticate(request(*header)) is None


def test_wrong_tokens(caplog: pytest.LogCaptureFixture) -> None:
    token, line = new_token("grafana", Role.VIEWER)
    forged = new_token("x", Role.VIEWER)[0]
    same_id = f"{token[:11]}_{forged.split('_')[2]}_{forged.split('_')[3]}"
    cases = {
        "": "none of taskmon's",
        "eyJhbGciOi.x.y": "none of taskmon's",
        line: "none of taskmon's",
        token.upper(): "none of taskmon's",
        f"{token} {token}": "none of taskmon's",
        f"{token}, Bearer {token}": "none of taskmon's",
        "é" * 50: "none of taskmon's",
        "\ud800": "none of taskmon's",
        token[:-1] + ("0" if token[-1] != "0" else "1"): "damaged",
        same_id: "damaged",
        forged: "not known here",
    }
    for value, reason in cases.items():
        authenticator = TokenAuthenticator([line])
        with pytest.raises(AuthenticationFailed, match=reason):
            authenticator.authenticate(request(f"Bearer {value}"))
    assert len(caplog.records) == len(cases)
    assert token[12:52] not in caplog.text
    assert forged[12:52] not in caplog.text


def test_token_ends_on_its_day() -> None:
    clock = Clock(datetime(2030, 12, 30, 23, 59, 59, tzinfo=UTC).timestamp())
    token, line = new_token("x", Role.VIEWER, date(2030, 12, 31))
    authenticator = TokenAuthenticator([line], clock=clock)
    assert authenticator.authenticate(request(f"Bearer {token}")) is not None
    clock.now += 1
    with pytest.raises(AuthenticationFailed, match="The token ended on 2030-12-31"):
        authenticator.authenticate(request(f"Bearer {token}"))
    clock.now = math.inf
    eternal, line = new_token("x", Role.VIEWER)
    assert TokenAuthenticator([line], clock=lambda: 1e18).authenticate(request(f"Bearer {eternal}"))


def test_wrong_tokens_are_throttled_and_right_ones_never() -> None:
    token, line = new_token("x", Role.VIEWER)
    authenticator = TokenAuthenticator([line])
    for _ in range(authenticator.client_limit):
        with pytest.raises(AuthenticationFailed):
            authenticator.authenticate(request("Bearer x"))
    with pytest.raises(TooManyRequests):
        authenticator.authenticate(request("Bearer x"))
    assert authenticator.authenticate(request(f"Bearer {token}")) == User(
        "x", Role.VIEWER, "token", credential=token[:11]
    )
