"""Roles by group, address and domain: exact, and only ever more."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.auth import Role
from taskmon.credentials.roles import Roles, read_address
from taskmon.errors import InvalidSetting
from taskmon.settings import Settings

RULES = ("admin=group:ops", "operator=address:Ann@Example.com", "viewer=domain:example.com", "viewer=group:ops")


@pytest.mark.parametrize(
    ("groups", "address", "role"),
    [
        (["ops"], None, Role.ADMIN),
        (["ops"], "bob@example.com", Role.ADMIN),
        (["Ops", "ops ", "op", "ops,dev"], None, None),
        ([], "ann@example.com", Role.OPERATOR),
        ([], "ANN@EXAMPLE.COM", Role.OPERATOR),
        ([], "bob@example.com", Role.VIEWER),
        ([], "ann@mail.example.com", None),
        ([], "ann@example.com.elsewhere.org", None),
        ([], "ann@example.com@elsewhere.org", None),
        ([], "ann@elsewhere.org", None),
        ([], "ann@example_com", None),
        ([], "", None),
        ([], None, None),
    ],
)
def test_a_rule_matches_exactly(groups: list[str], address: str | None, role: Role | None) -> None:
    assert Roles(RULES, None).find(groups, address) is role
    assert Roles(RULES, None).granted(groups, address) is role


def test_the_default_is_for_whom_no_rule_names_and_takes_nothing() -> None:
    roles = Roles(("viewer=group:dev", "admin=group:ops"), Role.OPERATOR)
    assert roles.find([], None) is Role.OPERATOR
    assert roles.find(["dev"], None) is Role.OPERATOR
    assert roles.find(["dev", "ops"], None) is Role.ADMIN
    assert roles.granted([], None) is None
    assert roles.groups == {"dev", "ops"}


@given(st.lists(st.sampled_from(["ops", "dev", "x"])), st.lists(st.sampled_from(["ops", "dev", "x"])))
def test_groups_only_add(some: list[str], more: list[str]) -> None:
    roles = Roles(("admin=group:ops", "operator=group:dev"), Role.VIEWER)
    assert (roles.find(some + more, None) or 0) >= (roles.find(some, None) or 0)


@given(st.text() | st.from_regex(r"\S+@\S+"))
@example("\u212aate@example.com")  # the sign of Kelvin, of which lower case makes a k
@example("kate@example.com\n")
@example("kate@examp\u0130le.com")
def test_an_address_is_ascii_with_one_at(text: str) -> None:
    address = read_address(text)
    if address is not None:
        assert address == text.lower() and text.isascii() and text.isprintable() and text.count("@") == 1
    assert Roles(("admin=address:kate@example.com",), None).find([], text) is None or text.isascii()


@pytest.mark.parametrize(
    "value", [None, 5, ["ann@example.com"], "a" * 250 + "@example.com", "a b@example.com", "@b", "a@"]
)
def test_what_is_no_address(value: object) -> None:
    assert read_address(value) is None


@pytest.mark.parametrize(
    "rule",
    [
        "ops",
        "admin=ops",
        "root=group:ops",
        "admin=group:",
        "admin=address:.*@example.com",
        "admin=address:ann",
        "admin=domain:*.example.com",
        "admin=domain:@example.com",
    ],
)
def test_a_bad_rule_is_refused_at_the_start(rule: str) -> None:
    with pytest.raises(InvalidSetting, match="--roles must"):
        Settings(roles=(rule,))
    with pytest.raises(ValueError, match="rule"):
        Roles(("nonsense",), None)
