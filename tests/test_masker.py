"""What is masked in a text: values by the names of their keys, in the forms of real code, and secrets by shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmon.http.masker import Masker
from taskmon.masking import MASK
from taskmon.settings import Settings

MASKER = Masker(Settings().mask_keys)
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("{'token': <Token: hunter2 abc def>, 'n': 1}", "{'token': ***, 'n': 1}"),
        ("{'token': <Token: (a, 'hunter2)>, 'n': 1}", "{'token': ***, 'n': 1}"),
        ("{'token': <Token: <b>, hunter2>, 'n': 1}", "{'token': ***, 'n': 1}"),
        ("{'password': Secret hunter2 text, 'n': 1}", "{'password': ***, 'n': 1}"),
        ("{'pwd': datetime.date(2020, 1, hunter2), 'n': 1}", "{'pwd': ***, 'n': 1}"),
        ("{'auth': ('user', 'hunter2'), 'n': 1}", "{'auth': ***, 'n': 1}"),
        ("{'password': 'it\\'s hunter2', 'n': 1}", "{'password': ***, 'n': 1}"),
        ("{'token': \"\"\"hunter2\"\"\", 'n': 1}", "{'token': ***, 'n': 1}"),
        ("('password', 'hunter2')", "('password', ***)"),
        ("[('user', 'a'), ('pin', 'hunter2'), ('n', 1)]", "[('user', 'a'), ('pin', ***), ('n', 1)]"),
        ("['cmd', '--password', 'hunter2', 'x']", "['cmd', '--password', ***, 'x']"),
        ("{'name': 'password', 'value': 'hunter2', 'n': 1}", "{'name': 'password', 'value': ***, 'n': 1}"),
        ("('fields', 'password', 'x')", "('fields', 'password', 'x')"),
        ("Authorization: Basic aHVudGVyMg==\nHost: y", "Authorization: ***\nHost: y"),
        ("GET /\\r\\nCookie: a=b; c=hunter2\\r\\nHost: y", "GET /\\r\\nCookie: ***\\r\\nHost: y"),
        ("['Authorization: Digest response=\"hunter2\"', 'b']", "['Authorization: ***', 'b']"),
        ("sent Bearer hunter2.abc to x", "sent Bearer *** to x"),
        ("run --password hunter2 x --token=hunter2", "run --password *** x --token=***"),
        ("password = 'hunter2'  # x", "password = ***  # x"),
        ('data["password"] = "hunter2" ; ok', 'data["password"] = *** ; ok'),
        ("user[password]=hunter2&b=1", "user[password]=***&b=1"),
        ("self.token='hunter2', n=1", "self.token=***, n=1"),
        ("User(name=Ann, password=hunter two hunter2, n=1)", "User(name=Ann, password=***, n=1)"),
        ("host=db password=hunter2 dbname=foo", "host=db password=*** dbname=foo"),
        ("password: hunter2, user: ann", "password: ***, user: ann"),
        ('{"password": \n  "hunter2", "n": 1}', '{"password": \n  ***, "n": 1}'),
        ("{'url': 'postgres://u:hunter2@db/x'}", "{'url': 'postgres://u:***@db/x'}"),
        ("https://hunter2hunter2@github.com/x", "https://***@github.com/x"),
        ("https://hooks.slack.com/services/T/B/hunter2", "https://hooks.slack.com/***"),
        ("https://example.com/webhook/hunter2 x", "https://example.com/webhook/*** x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- x", "*** x"),
        ("{'a': '-----BEGIN PRIVATE KEY-----\\nhunter2 and the rest is cut", "{'a': '***"),
        ("AKIAIOSFODNN7EXAMPLE ghp_hunter2hunter2 sk_live_hunter2", "*** *** ***"),
        ("xoxb-12-hunter2 eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.hunter2 x", "*** *** x"),
        ("sessionid=hunter2; csrftoken=hunter2", "sessionid=***; csrftoken=***"),
        ("{'db password': 'hunter2', 'n': 1}", "{'db password': ***, 'n': 1}"),
        ("'pass the password: hunter2', 'b'", "'pass the password: ***', 'b'"),
        ("<wsse:Password>hunter2</wsse:Password><n>1</n>", "<wsse:Password>***</wsse:Password><n>1</n>"),
        ('<user password="hunter2" n="1"/>', '<user password=*** n="1"/>'),
        ("<a:Password Type='x'>hunter2</a:Password><n>1</n>", "<a:Password Type='x'>***</a:Password><n>1</n>"),
        ("<password><![CDATA[a<b>hunter2]]></password>", "<password>***]]></password>"),
        ('<input name="password" id="x" value="hunter2">', '<input name="password" id="x" value=***>'),
        ("{'name': 'pin', 'type': 5, 'value': 'hunter2'}", "{'name': 'pin', 'type': 5, 'value': ***}"),
        ("{'pwd': 'a '\n   \"b'hunter2 \"\n   'c', 'n': 1}", "{'pwd': ***, 'n': 1}"),
        ("SET password='it''s hunter2', n=1", "SET password=***, n=1"),
        ("ALTER USER x PASSWORD 'a\"hunter2' y", "ALTER USER x PASSWORD '***' y"),
        ("\"USER x IDENTIFIED BY \\'hunter2\\' y\"", "\"USER x IDENTIFIED BY \\'***\\' y\""),
        ("password=a,hunter2 n=1", "password=*** n=1"),
        ("'A=1\\npwd=hunter2\\nB=2'", "'A=1\\npwd=***\\nB=2'"),
        ("a:\n private_key: |-\n  b hunter2\n\n  hunter2\n n: 5", "a:\n private_key: ***\n n: 5"),
        ("'a:\\n  pin: >\\n    b\\n    hunter2\\n  n: 5'", "'a:\\n  pin: ***\\n  n: 5'"),
        ("{&quot;pin&quot;: &quot;hunter2&quot;, &quot;n&quot;: 1}", "{&quot;pin&quot;: ***, &quot;n&quot;: 1}"),
        (r"{\u0022pin\u0022:\u0022\\\u0022hunter2\u0022,\u0022n\u0022:1}", r"{\u0022pin\u0022:***,\u0022n\u0022:1}"),
        ("next=%2F%3Fpin%3Dhunter2%26b%3D1", "next=%2F%3Fpin%3D***%26b%3D1"),
        ("{%22pin%22:%22a%5C%22hunter2%22,%22n%22:1}", "{%22pin%22:***,%22n%22:1}"),
        ("['curl', '-u', 'ann:hunter2', 'x']", "['curl', '-u', 'ann:***', 'x']"),
        ("docker run -u 1000:1000 -u http://x:1 x", "docker run -u 1000:1000 -u http://x:1 x"),
        ("['sshpass', '-p', 'hunter2', 'ssh']", "['sshpass', '-p', '***', 'ssh']"),
        ("https://api.telegram.org/bot12:hunter2/send", "https://api.telegram.org/***"),
        ("Unexpected token '<', \"<html\"", "Unexpected token '<', \"<html\""),
        ('<label for="password" class="x" value="5">', '<label for="password" class="x" value="5">'),
        ("&quot;passenger&quot;: x, %20pinned%20", "&quot;passenger&quot;: x, %20pinned%20"),
        ("pass > 5 and a.token>6", "pass > 5 and a.token>6"),
        ("KeyError: 'password'", "KeyError: 'password'"),
        *[(text, text) for text in ("pinned=1, passenger: 2, compass=3", "{'spin': 4, 'bypass': 5, 'keypin': 6}")],
        ("{'cardPin': 4, 'max_tokens': 5, 'session_no': 1}", "{'cardPin': ***, 'max_tokens': 5, 'session_no': 1}"),
        ("a task- and b--pass", "a task- and b--pass"),
    ],
)  # fmt: skip
def test_the_forms_that_real_code_has(text: str, masked: str) -> None:
    assert MASKER.text(text) == masked
    assert SECRET not in str(MASKER.text(f"{text}; {text} and more of it"))


NAMES = [
    "pwd",
    "pass",
    "pin",
    "otp",
    "cvv",
    "dsn",
    "jwt",
    "cookie",
    "session",
    "signing_key",
    "encryptionKey",
    "SSH-KEY",
    "pw",
    "creds",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_masked_by_default(name: str) -> None:
    for text in (f"{{'{name}': 'hunter2'}}", f'{{"{name}": "hunter2"}}', f"{name}=hunter2", f"('{name}', 'hunter2')"):
        assert SECRET not in str(MASKER.text(text)), text
    assert MASKER.value({name: SECRET, "a": [[name, SECRET], {"key": name, "value": SECRET}]}) == {
        name: MASK,
        "a": [[name, MASK], {"key": name, "value": MASK}],
    }


@given(st.integers(1, 6), st.text(max_size=8), st.booleans())
def test_json_within_json_to_any_depth(depth: int, more: str, as_repr: bool) -> None:
    text = json.dumps({"a": 1, "password": f"{more}'\"{SECRET}'\", {more}", "kept": 5})
    for level in range(depth):
        text = repr({"inner": text}) if as_repr and level == depth - 1 else json.dumps({"inner": text, "n": level})
    masked = str(MASKER.text(text))
    assert SECRET not in masked
    assert "kept" in masked


@given(
    st.lists(
        st.sampled_from(
            [
                "password",
                "'",
                '"',
                "\\",
                ": ",
                "=",
                "(",
                ")",
                "<",
                ">",
                ", ",
                "\n",
                "x",
                "://",
                "@",
                "Bearer ",
                "hook/",
            ]
        ),
        max_size=30,
    )
)
def test_what_is_left_is_what_was_there(parts: list[str]) -> None:
    """With a mark that no text has, what is around the marks is the text itself, in its order."""
    text = "".join(parts)
    masked = MASKER.text(text, "\0")
    assert masked is not None
    at = 0
    for piece in masked.split("\0"):
        assert piece.removesuffix("@") in text or piece in text
        at = text.index(piece.removesuffix("@"), at)
    assert masked == text or "\0" in masked


LONG = 65_536


@pytest.mark.parametrize("piece", ["'password': 'x', ", "pin=1 ", "token=((()))", "'token': ", "://a:b"])
def test_a_text_with_very_many_secrets_is_masked_from_some_place_on(piece: str) -> None:
    text = (piece * LONG)[:LONG] + SECRET
    masked = MASKER.text("password='a' @ " + text)
    assert masked is not None
    assert SECRET not in masked
    assert len(masked) <= len(text) + LONG
