"""How --listen is read."""

from pathlib import Path

import pytest

from taskmon.errors import InvalidSetting
from taskmon.settings import Listener, Settings, load_settings

TOKEN, BOTH = frozenset({"token"}), frozenset({"token", "proxy"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:5556", Listener("0.0.0.0", 5556)),
        (":5556", Listener("0.0.0.0", 5556)),
        ("localhost:0,auth=token", Listener("localhost", 0, auth=TOKEN)),
        ("[::1]:5556,tls,auth=token+proxy", Listener("::1", 5556, auth=BOTH, tls=True)),
        ("unix:/run/t.sock,auth=token", Listener(unix_socket=Path("/run/t.sock"), auth=TOKEN)),
        (
            "a:1,certfile=/c,keyfile=/k,ca_certs=/a",
            Listener("a", 1, tls=True, certfile=Path("/c"), keyfile=Path("/k"), ca_certs=Path("/a")),
        ),
    ],
)
def test_one(text: str, expected: Listener) -> None:
    settings = Settings(listen=text)
    assert settings.listen == (expected,)
    assert str(expected) in ("/run/t.sock", f"{expected.address} port {expected.port}")
    assert Settings(listen=settings.listen).listen == (expected,)


def test_several_by_flag_and_by_variable(tmp_path: Path) -> None:
    one, two = "unix:/run/t.sock,auth=token", "0.0.0.0:5556,auth=token,tls"
    expected = (
        Listener(unix_socket=Path("/run/t.sock"), auth=TOKEN),
        Listener("0.0.0.0", 5556, auth=TOKEN, tls=True),
    )
    assert load_settings({"listen": (one, two)}, {}, tmp_path).settings.listen == expected
    assert load_settings({}, {"TASKMON_LISTEN": f"{one}, {two}"}, tmp_path).settings.listen == expected


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.0.0.0:x",
        "0.0.0.0:65536",
        "::1:5556",
        "a b:1",
        "unix:",
        "a:1,auth",
        "a:1,auth=",
        "a:1,auth=any",
        "a:1,auth=token+",
        "a:1,tls=yes",
        "a:1,certfile=/c",
        "a:1,keyfile=/k",
        "a:1,port=2",
        "http://a:1",
        "unix:/" + "x" * 200,
    ],
)
def test_what_is_no_listener(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--listen must"):
        Settings(listen=[text])
