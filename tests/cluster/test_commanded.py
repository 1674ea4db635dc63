"""For how long the answers of a worker hold that was told to change."""

from taskmon.cluster.commanded import HOLD_WHILE_CHANGING, Commanded


def test_what_was_asked_before_or_while_it_changes() -> None:
    commanded = Commanded()
    assert commanded.holds("a", 5.0, 10.0)
    commanded.note(["a"], 10.0, 5.0)
    assert not commanded.holds("a", 9.9, 10.0)
    assert commanded.holds("a", 10.1, 10.2)
    assert not commanded.holds("a", 10.1, 10.1 + HOLD_WHILE_CHANGING)
    assert not commanded.holds("a", 14.9, 15.0), "it has changed since"
    assert commanded.holds("a", 15.0, 19.0)
    assert commanded.holds("b", 5.0, 10.0)
    assert commanded.holds(None, 5.0, 10.0)


def test_a_command_to_all() -> None:
    commanded = Commanded()
    commanded.note(["a"], 10.0, 50.0)
    commanded.note(None, 20.0, 1.0)
    for hostname in ("a", "b", None):
        assert not commanded.holds(hostname, 19.0, 20.0)
    assert commanded.holds("b", 21.0, 24.0)
    assert not commanded.holds("a", 21.0, 24.0)


def test_a_shorter_command_does_not_end_a_longer_one() -> None:
    commanded = Commanded()
    commanded.note(["a"], 10.0, 5.5)
    commanded.note(["a"], 11.0, 1.0)
    assert not commanded.holds("a", 15.0, 15.5)


def test_old_commands_are_forgotten() -> None:
    commanded = Commanded()
    commanded.note(["a"], 10.0, 5.0)
    commanded.note(["b"], 100.0, 5.0)
    assert set(commanded.changed()) == {"b"}
