"""`next` is a path of this taskmon or the first page, whatever it looks like to a browser."""

from urllib.parse import urljoin, urlsplit

import pytest
from browsing import PUBLIC, openid_scene
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.login.addresses import local_path

KEPT = [
    "/",
    "/api/tasks",
    "/api/tasks/",
    "/api/tasks?state=FAILURE&search=a%20b",
    "/api/task/info/a@b:c;d=1",
    "/api/tasks?search=https://x//y",
    "/loggers",
]
REFUSED = [
    "",
    "x",
    "//else.example.com",
    "///else.example.com",
    "/\\else.example.com",
    "\\\\else.example.com",
    "/\t/else.example.com",
    "/\n/else.example.com",
    "https://else.example.com",
    "https:/else.example.com",
    "javascript:alert(1)",
    "/%2F/else.example.com",
    "/%2f%2felse.example.com",
    "/%5celse.example.com",
    "/..//else.example.com",
    "/./x",
    "/%2e%2E/x",
    "/x/../y",
    "/@else.example.com\\",
    "/x#y",
    "/x?y#z",
    "/x?\\",
    "/x y",
    "/é",
    "/x\x00",
    "/%0d%0aSet-Cookie:x=y",
    "/x\r\nSet-Cookie: x=y",
    "?x",
    "/login",
    "/login/callback?code=x",
    "/logout",
    "/" + "x" * 1024,
]


@pytest.mark.parametrize("path", KEPT)
def test_a_path_is_kept(path: str) -> None:
    assert local_path(path, "") == path
    assert local_path("/mon" + path, "/mon") == "/mon" + path
    assert local_path(path, "/mon") == "/mon/"


@pytest.mark.parametrize("path", REFUSED)
def test_anything_else_is_the_first_page(path: str) -> None:
    assert local_path(path, "") == "/"
    assert path == "?x" or local_path("/mon" + path, "/mon") in ("/mon/", "/mon")


def as_a_browser(base: str, text: str) -> str:
    """Say where a browser would go: it drops tabs and line breaks, and takes a backslash for a slash."""
    clean = text.strip().translate({9: None, 10: None, 13: None}).replace("\\", "/")
    return urljoin(base, clean)


@given(
    st.text(max_size=40) | st.from_regex(r"[/\\.%@:?#a-z0-9\t\n]{1,30}", fullmatch=True),
    st.sampled_from(["", "/mon"]),
)
@example("/mon", "/mon")
@example("/monster", "/mon")
@example("/mon/../x", "/mon")
def test_a_browser_stays_here_wherever_it_is_sent(text: str, base: str) -> None:
    path = local_path(text, base)
    assert path.isascii() and path.isprintable()
    gone = urlsplit(as_a_browser(f"{PUBLIC}{base}/login/callback", path))
    assert f"{gone.scheme}://{gone.netloc}" == PUBLIC
    assert gone.path == base or gone.path.startswith(f"{base}/")
    assert "//" not in path.partition("?")[0]
    assert path in (text, f"{base}/")


async def test_next_over_the_wire() -> None:
    async with openid_scene() as scene:
        for path in (
            "//else.example.com",
            "https://else.example.com",
            "/%5Celse.example.com",
            "/\\else",
            "%2F%2Felse",
        ):
            begun = await scene.browser.go(f"/login?next={path}", follow=False)
            granted = await scene.browser.go(begun.response.headers["Location"], follow=False)
            done = await scene.browser.go(granted.response.headers["Location"], follow=False)
            assert done.response.headers["Location"] == "/"
        begun = await scene.browser.go("/login?next=/a&next=/api/tasks%3Flimit=1&next=%FF", follow=False)
        granted = await scene.browser.go(begun.response.headers["Location"], follow=False)
        done = await scene.browser.go(granted.response.headers["Location"], follow=False)
        assert done.response.headers["Location"] == "/"
