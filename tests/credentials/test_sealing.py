"""What a browser keeps comes back as it was, or counts for nothing; what is used up stays used up."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.credentials.signing import MAX_COOKIE_LENGTH, ReplayGuard, Sealer

KEY, OTHER = "k" * 32, "o" * 32


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_again(content: bytes) -> None:
    sealed = Sealer([KEY], "test").seal(content)
    assert Sealer([KEY], "test").open(sealed) == content
    assert set(sealed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(st.binary(max_size=40), st.integers(0, 200), st.characters())
def test_one_other_character_and_it_does_not_open(content: bytes, place: int, character: str) -> None:
    sealer = Sealer([KEY], "test")
    sealed = sealer.seal(content)
    place %= len(sealed)
    changed = sealed[:place] + character + sealed[place + 1 :]
    assert changed == sealed or sealer.open(changed) is None


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{43}"))
def test_anything_else_does_not_open(text: str) -> None:
    assert Sealer([KEY], "test").open(text) is None


def test_what_is_too_long_does_not_open() -> None:
    sealer = Sealer([KEY], "test")
    assert sealer.open(sealer.seal(b"x" * MAX_COOKIE_LENGTH)) is None


def test_keys_rotate_and_purposes_do_not_mix() -> None:
    old, both, new = Sealer([OTHER], "test"), Sealer([KEY, OTHER], "test"), Sealer([KEY], "test")
    assert both.open(old.seal(b"x")) == b"x"
    assert new.open(both.seal(b"x")) == b"x"
    assert new.open(old.seal(b"x")) is None
    assert Sealer([KEY], "else").open(new.seal(b"x")) is None


@pytest.mark.parametrize("change", [lambda s: s + "=", lambda s: s.replace(".", "=."), lambda s: s + ".", str.upper])
def test_another_spelling_of_the_same_does_not_open(change: object) -> None:
    sealer = Sealer([KEY], "test")
    assert sealer.open(change(sealer.seal(b"hello"))) is None  # type: ignore[operator]
    content = base64.urlsafe_b64encode(b"h").decode().rstrip("=")
    signature = sealer.seal(b"h").partition(".")[2]
    assert sealer.open(f"{content}.{signature}") == b"h"
    assert sealer.open(f"{content[:-1]}{chr(ord(content[-1]) + 1)}.{signature}") is None  # the same byte


def test_what_is_spent_is_forgotten_when_it_would_be_no_good_anyway() -> None:
    now = [1000.0]
    spent = ReplayGuard(10.0, clock=lambda: now[0])
    spent.add("a", 1000.0)
    spent.add("a", 1000.0)
    assert spent.holds("a", 1000.0)
    assert not spent.holds("b", 1000.0)
    now[0] = 1011.0
    spent.add("c", 1011.0)
    assert len(spent) == 1


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 8))
def test_what_is_spent_stays_so_however_many_there_are(births: list[int], most: int) -> None:
    spent = ReplayGuard(1000.0, most, clock=lambda: 60.0)
    for number, born in enumerate(births):
        spent.add(str(number), born)
        assert len(spent) <= most
        assert all(spent.holds(str(n), births[n]) for n in range(number + 1))
    assert not spent.holds("young", 51.0)
