"""The search language: its grammar, what it refuses and where, and what it finds."""

import time

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st

from taskmon.errors import InvalidArgument, InvalidSearch
from taskmon.monitor.search import MAX_DEPTH, MAX_LENGTH, MAX_TOKENS, Search, Terms, only_wanted, parse_search
from taskmon.records import Task

#: A busy machine may be slow to draw a first example.
TASK = Task(
    uuid="1B2C3D4E-0000-4000-8000-00000000aBcD",
    name="shop.tasks.Send_Mail",
    state="FAILURE",
    worker="celery@Host-1.example.org",
    args="(7, 'Straße 5', 'say \"hi\"')",
    kwargs="{'user_id': 42, 'mode': 'fast', 'path': 'C:\\temp\\x'}",
    result="{'colour': 'Rot'}",
    exception="ValueError('no such Mailbox')",
    traceback="Traceback: line 5 in send",
    queue="Mails.urgent",
    root_id="root-1",
    parent_id="parent-1",
)
BARE = Task(uuid="bare-task-id")


def matches(search: str, task: Task = TASK) -> bool:
    return parse_search(search).matches(task)


@pytest.mark.parametrize("search", ["", "   ", "\t\n"])
def test_nothing_asked_for_matches_every_task(search: str) -> None:
    assert matches(search)
    assert matches(search, BARE)


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ("2c3d4e", "2c3d4f"),  # the id
        ("TASKS.SEND", "tasks.sent"),
        ("fail", "success"),
        ("@host-1", "@host-2"),
        ("straße", "strasze"),
        ("STRASSE", "strass3"),
        ("user_id", "user_ids"),
        ("rot", "rott"),
        ("-success", "-failure"),
        ('"Straße 5"', '"Straße  5"'),
        (r'"say \"hi\""', r'"say \"ho\""'),
        (r"\"hi\"", r"\"hi\"\""),
        (r'"temp\\x"', r'"temp\\\\x"'),
        (r"temp\x", r"temp\y"),
        ('col"our"', 'col "ours"'),
        ('"user_id\': 42"', '"user_id\': 43"'),
        ('-"Straße 6"', '-"Straße 5"'),
        ('"tasks.send"', '"-tasks.send"'),
        ('"name:shop" OR shop', '"name:shop"'),  # in quotes a field's name is text
        ("fail", '"mail\0fail"'.replace("\0", " ")),
        ("send", "mailbox"),  # the exception is no plain text, nor is the traceback
        ("send", "traceback"),
        ("send", "urgent"),
        ("send", "root-1"),
    ],
)
def test_plain_term(found: str, missed: str) -> None:
    assert matches(found)
    assert not matches(missed)


def test_plain_term_never_spans_two_fields() -> None:
    task = Task(uuid="abc", name="def", state="ghi")
    assert matches("abc def ghi", task)
    assert not matches("abcdef", task)
    assert not matches("bcd", task)


@pytest.mark.parametrize("search", ["None", "name:None", "worker:None", "args:None", "queue:None"])
def test_unknown_is_not_the_word_none(search: str) -> None:
    assert not matches(search, BARE)
    assert matches("-" + search, BARE)


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ("name:send_mail", "name:host-1"),
        ("NAME:send_mail", "name:failure"),
        ("-name:host-1", "-name:send_mail"),
        ("worker:HOST-1", "worker:send_mail"),
        ('args:"(7, "', "args:user_id"),
        ("kwargs:fast", "kwargs:straße"),
        ("kwargs:\"'mode'\"", "kwargs:\"'modes'\""),
        ('kwargs:"\': 42"', 'kwargs:"=42"'),
        ("result:COLOUR", "result:fast"),
        ("exception:mailbox", "exception:line"),
        ("queue:mails", "queue:celery"),
        ("state:FAILURE", "state:FAIL"),
        ("state:failure", "state:SUCCESS"),
        ('state:"Failure"', "state:FAILURES"),
        ("-state:SUCCESS", "-state:FAILURE"),
        ("root:root-1", "root:root"),
        ("-root:root", "-root:root-1"),
        ("parent:parent-1", "parent:PARENT-1"),
        ("-parent:x", "-parent:parent-1"),
        ("name:shop", "name:-shop"),
        ("user_id", "id:2c3d4e"),  # not a field: a plain term with a colon in it
        ("-http://example.org", "http://example.org"),
    ],
)
def test_field_term(found: str, missed: str) -> None:
    assert matches(found)
    assert not matches(missed)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("shop fail", True),
        ("shop nope", False),
        ("nope shop", False),
        ("shop AND fail", True),
        ("shop AND nope", False),
        ("nope OR shop", True),
        ("nope OR nix", False),
        ("shop OR nope AND nix", True),  # AND binds tighter
        ("nope AND nix OR shop", True),
        ("(shop OR nope) AND nix", False),
        ("shop OR nope nix", True),
        ("(shop OR nope) nix", False),
        ("(shop)(fail)", True),
        ("shop(nope)", False),
        ("nope OR (shop AND fail)", True),
        ("nope OR (shop AND nix)", False),
        ("(nope OR shop) (nix OR fail)", True),
        ("(nope OR shop) (nix OR none)", False),
        ("state:FAILURE (nope OR shop) (nix OR fail)", True),
        ("state:SUCCESS (nope OR shop) (nix OR fail)", False),
        ("state:SUCCESS OR (nope shop) OR (nix fail)", False),
        ("state:SUCCESS OR (nope shop) OR (shop fail)", True),
        ("state:FAILURE OR (nope shop) OR (nix fail)", True),
        ("(name:shop state:FAILURE) OR nope", True),
        ("shop -nope", True),
        ("shop -fail", False),
        ("nope OR -nix", True),
        ("nope OR -shop", False),
        ("name:shop -name:mail", False),
        ("name:shop -name:nope", True),
        ("name:nope OR name:mail OR worker:nope", True),
        ("name:nope OR name:nix OR worker:nope", False),
        ("kwargs:user_id=42 kwargs:mode=fast shop", True),
        ("kwargs:user_id=42 kwargs:mode=slow shop", False),
        ("shop shop SHOP", True),
        ('shop "AND"', False),  # a word like any other
        ('shop "AND" OR nope', False),
        ('shop -"NOT"', True),
        ("shop and", False),
        ("-and -not", True),
        ("shop\u00a0fail\u3000mail", True),
        ("(" * MAX_DEPTH + "shop" + ")" * MAX_DEPTH, True),
    ],
)
def test_operators(search: str, expected: bool) -> None:
    assert matches(search) is expected


PAIRS = {
    "user_id": 42,
    "mode": "fast",
    "text": "it's a \"test\", so 'x': 1, and",
    "none": None,
    "yes": True,
    "ratio": 1.5,
    "low": -3,
    "empty": "",
    "digits": "007",
    "list": [1, 2],
    "inner": {"depth": 9, "more": [1, 2]},
    "other": [{"far": 1}],
    "Cased": "ÄÖ",
    "a b": "c d",
}


@pytest.mark.parametrize("show", [repr, saferepr])
@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("user_id=42", True),
        ("USER_ID=42", True),
        ("user_id=421", False),
        ("user_id=4", False),
        ("user_id=", False),
        ("user_id='42'", False),
        ("id=42", False),
        ("_id=42", False),
        ("mode=fast", True),
        ("mode=FAST", True),
        ("mode='fast'", True),
        ("mode=fas", False),
        ("mode=ast", False),
        ("mode=fast,", False),
        ("mode='fast", False),
        ("none=None", True),
        ("none=none", True),
        ("none=0", False),
        ("yes=true", True),
        ("yes=1", False),
        ("ratio=1.5", True),
        ("ratio=1", False),
        ("low=-3", True),
        ("empty=", True),
        ("digits=007", True),
        ("digits=7", False),
        ('"list=[1, 2]"', True),
        ('"list=[1"', False),
        ('"list=1, 2"', False),
        ("\"inner={'depth': 9, 'more': [1, 2]}\"", True),
        ("depth=9", False),  # not one of the outermost
        ("far=1", False),
        ("x=1", False),  # inside a string
        ("cased=äö", True),
        ('"a b=c d"', True),
        ('"a b = c d"', True),
        ('" user_id = 42 "', True),
        ("\"user_id=42, 'mode': 'fast'\"", False),
        ("text=it's", False),
        ('"text=it\'s a \\"test\\", so \'x\': 1, and"', True),
        (".*=42", False),
        ("missing=.*", False),
    ],
)
def test_pair_of_kwargs(show: object, pair: str, expected: bool) -> None:
    assert callable(show)
    task = Task(uuid="x", kwargs=show(PAIRS))
    assert matches(f"kwargs:{pair}", task) is expected
    assert matches(f"-kwargs:{pair}", task) is not expected
    assert not matches(f"kwargs:{pair}", BARE)
    assert matches(f"-kwargs:{pair}", BARE)


@pytest.mark.parametrize(
    ("kwargs", "pair", "expected"),
    [
        ("{'user_id': 42, 'mode': 'fa...', ...}", "user_id=42", True),
        ("{'user_id': 42, 'mode': 'fa...', ...}", "mode=fa", False),
        ("{'user_id': 42, 'mode': 'fa...', ...}", "mode=fast", False),
        ("{'e': , ...}", "e=", False),
        ("{'user_id': 42", "user_id=42", False),  # 421, for all we know
        ("{'user_id': 42...", "user_id=42", False),
        ("{'user_id': 4...", "user_id=42", False),
        ("{'mode': 'fast'", "mode=fast", True),
        ("{'mode': 'fast'...", "mode=fast", True),
        ("{'mode': 'fast", "mode=fast", False),
        ("{'text': 'never closed, 'user_id': 42, ...", "user_id=42", False),
        ("{'when': datetime.datetime(2026, 1, 2), 'user_id': 42}", "user_id=42", True),
        ("{'when': datetime.date(2026, 1, 2)}", '"when=datetime.date(2026, 1, 2)"', True),
        ("{'when': datetime.date(2026, 1, 2)}", '"when=datetime.date(2026, 1"', False),
        ("{'when': datetime.date(2026, 1, 2)}", '"when=datetime.date(2026"', False),
        ("{'user': <User: 42>, 'mode': 'fast'}", 'mode="fast"', True),
        ('{"user_id":42,"mode":"fast"}', "user_id=42", True),
        ('{"user_id":42,"mode":"fast"}', "mode=fast", True),
        ("{'path': 'C:\\dir\\new', 'user_id': 42}", 'path="C:\\dir\\new"', True),
        ("{'path': 'C:\\\\dir', 'user_id': 42}", 'path="C:\\dir"', True),
        ("{'text': 'two\nlines'}", 'text="two\nlines"', True),
        ("{'text': 'two\\nlines'}", 'text="two\nlines"', True),
        ("['user_id': 42]", "user_id=43", False),
        ("}{'user_id': 42}", "user_id=42", False),
        ("'user_id': 42, ", "user_id=42", False),
        ("[{'user_id': 42}]", "user_id=42", False),
        ("{}", "user_id=42", False),
        ("", "user_id=42", False),
    ],
)
def test_pair_of_kwargs_as_events_bring_them(kwargs: str, pair: str, expected: bool) -> None:
    assert matches(f"kwargs:{pair}", Task(uuid="x", kwargs=kwargs)) is expected


@given(
    st.dictionaries(st.text("abcxyz_", min_size=1, max_size=8), st.text() | st.integers() | st.none() | st.booleans())
)
def test_pair_of_kwargs_finds_what_repr_shows(kwargs: dict[str, object]) -> None:
    task = Task(uuid="x", kwargs=repr(kwargs))
    for key, value in kwargs.items():
        shown = str(value)
        if "\0" in shown or shown != shown.strip():
            continue
        escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
        assert matches(f'kwargs:"{key}={escaped}"', task)
        assert not matches(f'kwargs:"{key}={escaped}x"', task)


@pytest.mark.parametrize(
    ("search", "position", "rule"),
    [
        ("ab", 0, "needs at least 3 characters"),
        ("shop ab", 5, "needs at least 3 characters"),
        ('" a "', 0, "needs at least 3 characters"),
        ('""', 0, "needs at least 3 characters"),
        ('shop "OR" fail', 5, "needs at least 3 characters"),
        ("-ab", 0, "needs at least 3 characters"),
        ("shop name:ab", 5, "needs at least 3 characters"),
        ("kwargs:ab", 0, "needs at least 3 characters"),
        ("kwargs:=1", 0, "needs at least 3 characters"),
        ("queue:ab", 0, "needs at least 3 characters"),
        ("name:", 0, "needs a value right after name:"),
        ("shop STATE: FAILURE", 5, "needs a value right after state:"),
        ('worker:""', 0, "needs a value right after worker:"),
        ('-root:" "', 0, "needs a value right after root:"),
        ("name:(shop)", 0, "needs a value right after name:"),
        ("NOT shop", 0, "does not know NOT: write -term"),
        ("shop NOT fail", 5, "does not know NOT"),
        ("shop OR NOT fail", 8, "does not know NOT"),
        ("AND shop", 0, "needs a term before AND"),
        ("(OR shop)", 1, "needs a term before OR"),
        ("shop AND", 5, "needs a term after AND"),
        ("shop OR OR fail", 5, "needs a term after OR"),
        ("shop OR AND fail", 5, "needs a term after OR"),
        ("(shop OR) fail", 6, "needs a term after OR"),
        ("()", 0, "has nothing between ( and )"),
        ("shop ( )", 5, "has nothing between ( and )"),
        ("(shop", 0, "has a ( that is never closed"),
        ("shop (", 5, "has a ( that is never closed"),
        ("((shop)", 0, "has a ( that is never closed"),
        ("shop)", 4, "has a ) without its ("),
        (")", 0, "has a ) without its ("),
        ("(" * 6 + "shop" + ")" * 6, 5, "must not have more than 5 parentheses"),
        ('"shop', 0, "has a quote that is never closed"),
        ('shop fail"', 9, "has a quote that is never closed"),
        (r'name:"shop\"', 5, "has a quote that is never closed"),
        ("- shop", 0, "needs a term right after -"),
        ("shop -", 5, "needs a term right after -"),
        ("-(shop OR fail)", 0, "needs a term right after -"),
        ("--shop", 0, "needs a term right after -"),
        ("shop\0", 4, "must not contain a NUL"),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH, "must have at most 2,048 characters"),
        ("abc " * (MAX_TOKENS + 1), 4 * MAX_TOKENS, "must have at most 128 words and parentheses"),
        ("abc OR " * 64 + "abc", 7 * 64, "must have at most 128 words and parentheses"),
    ],
)
def test_bad_search_says_what_and_where(search: str, position: int, rule: str) -> None:
    with pytest.raises(InvalidSearch) as caught:
        parse_search(search)
    assert caught.value.position == position
    assert caught.value.argument == "search"
    assert str(caught.value).startswith(f"search {rule}")
    assert str(caught.value).endswith(f"at character {position}")


@pytest.mark.parametrize(
    ("search", "left"),
    [
        ("shop", "shop"),
        ("-shop", None),
        ("shop -fail name:mail", "shop name:mail"),
        ("shop OR -fail", None),
        ("(shop OR fail) -nope", "((shop OR fail))"),
        ("(shop OR -fail) nope", "nope"),
        ("(-shop -fail) OR nope", None),
        ("", None),
    ],
)
def test_without_what_must_not_match(search: str, left: str | None) -> None:
    terms = only_wanted(parse_search(search).terms)
    expected = None if left is None else parse_search(left).terms
    assert terms == expected or terms == Terms(True, [expected])


def test_longest_searches() -> None:
    assert not matches("x" * MAX_LENGTH)
    assert matches("fail " * MAX_TOKENS)


def test_equal_when_the_texts_are() -> None:
    assert parse_search("shop") == parse_search("shop")
    assert hash(parse_search("shop")) == hash(parse_search("shop"))
    assert parse_search("shop") != parse_search("shops")
    assert repr(parse_search("shop")) == "Search(text='shop')"


def test_a_search_sees_a_task_change() -> None:
    search = parse_search("(shop OR fail) (done OR nope)")
    task = Task(uuid="abc", name="shop")
    assert not search.matches(task)
    task.result = "done"
    assert search.matches(task)


@given(
    st.lists(
        st.sampled_from(
            [
                *[
                    "shop",
                    "fail",
                    "nope",
                    "nix1",
                    "name:shop",
                    "name:nope",
                    "state:FAILURE",
                    "state:x",
                    "root:x",
                ],
                *["kwargs:mode=fast", "kwargs:mode=no", "root:root-1", "args:straße", "queue:nope"],
            ]
        ).flatmap(lambda term: st.sampled_from([term, "-" + term])),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_groups_agree_with_python(terms: list[str], data: st.DataObject) -> None:
    """Join terms at random; Python's own `and` and `or` must give the same answer."""
    search, python = terms[0], str(matches(terms[0]))
    for depth, term in enumerate(terms[1:]):
        word, operator = data.draw(st.sampled_from([("", "and"), ("AND", "and"), ("OR", "or")]))
        search, python = f"{search} {word} {term}", f"{python} {operator} {matches(term)}"
        if depth < MAX_DEPTH and data.draw(st.booleans()):
            search, python = f"({search})", f"({python})"
    assert matches(search) is eval(python)


WORDS = st.sampled_from(
    [
        "AND",
        "OR",
        "NOT",
        "(",
        ")",
        '"',
        "\\",
        "-",
        ":",
        "=",
        "abc",
        "state:",
        "kwargs:",
        "kwargs:a=",
        "'",
        "[",
        " ",
        "é",
    ]
)


@given(st.lists(WORDS, max_size=200).map("".join) | st.text(max_size=300), st.text(max_size=100))
@example("kwargs:a=" + "[" * 2000, "{'a': " + "[" * 50_000)
@example("kwargs:a=" + "'\\" * 1000, "{'a': " + "'\\" * 20_000)
@example("kwargs:a=1", "{'x': " + "[{'a': 1}, " * 5_000)
@example("kwargs:a=1", "{" + "'a': 2, " * 5_000)
@example("kwargs:a=1", "{'a'" + " " * 60_000)
@example(" ".join(f"kwargs:a{i}={i}" for i in range(MAX_TOKENS)), "{'a1': 2}")
@example('\\"' * 1024, "")
@example('a"' * 1024, "")
@example("(" * MAX_LENGTH, "")
def test_hostile_text_is_refused_or_answered_soon(search: str, text: str) -> None:
    started = time.process_time()
    try:
        compiled = parse_search(search)
    except InvalidSearch as refusal:
        assert isinstance(refusal, InvalidArgument)
        assert 0 <= refusal.position <= len(search)
    else:
        assert isinstance(compiled, Search)
        assert isinstance(compiled.matches(Task(uuid="x", name=text, args=text, kwargs=text)), bool)
    assert time.process_time() - started < 2
