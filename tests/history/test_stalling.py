"""A database that does not answer counts as away, and is cut off at last."""

from pathlib import Path

import pytest
from factories import make_life, make_state
from patience import PATIENCE
from stored import read_all_rows
from waiting import eventually

from taskmon.errors import Unavailable
from taskmon.history import recording, watchdog

from .test_recording import recording_to


async def test_a_database_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "BACKOFF", (0.01, 0.02))
    state = make_state()

    def wait(slow: float, hung: float) -> None:
        monkeypatch.setattr(watchdog, "WARN_AFTER", slow)
        monkeypatch.setattr(watchdog, "CUT_AFTER", hung)

    async with recording_to(tmp_path / "history.sqlite3", state) as (recorder, database):
        cut = database.cut

        def cut_once() -> None:
            wait(PATIENCE, PATIENCE)  # what follows may take as long as it does
            cut()

        monkeypatch.setattr(database, "cut", cut_once)
        database.flows.clear()
        wait(0.05, PATIENCE)
        state.apply(make_life("a"))
        with pytest.raises(Unavailable, match="no answer"):
            await recorder.flush()
        assert recorder.status.word() == "unavailable"
        wait(PATIENCE, PATIENCE)
        database.flows.set()  # it was only slow
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert database.cuts == 0
        database.flows.clear()
        wait(0.05, 0.1)
        state.apply(make_life("b"))
        await eventually(lambda: recorder.status.reason == "the connection was cut")
        database.error = None
        await eventually(lambda: recorder.status.available)
        await recorder.flush()
        assert read_all_rows(database) == {"a": state.get("a"), "b": state.get("b")}
        assert database.cuts == 1
    assert sum("no answer for" in record.message for record in caplog.records) == 2
