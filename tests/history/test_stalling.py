"""A database that does not answer counts as away, and is cut off at last."""

from pathlib import Path

import pytest
from factories import make_life, make_state
from stored import read_all_rows
from waiting import eventually

from taskmon.errors import Unavailable
from taskmon.history import recording, stalling

from .test_recording import recording_to


async def test_a_database_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    monkeypatch.setattr(stalling, "SLOW", 0.05)
    state = make_state()
    async with recording_to(tmp_path / "history.sqlite3", state) as (recorder, database):
        database.flows.clear()
        state.apply(make_life("a"))
        with pytest.raises(Unavailable, match="no answer"):
            await recorder.flush()
        assert recorder.status.word() == "unavailable"
        database.flows.set()  # it was only slow
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert database.cuts == 0
        monkeypatch.setattr(stalling, "HUNG", 0.1)
        database.flows.clear()
        state.apply(make_life("b"))
        await eventually(lambda: recorder.status.reason == "the connection was cut")
        database.error = None
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert read_all_rows(database) == {"a": state.get("a"), "b": state.get("b")}
        assert database.cuts == 1
    assert sum("no answer for" in record.message for record in caplog.records) == 2
