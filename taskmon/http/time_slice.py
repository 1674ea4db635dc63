"""How an answer that takes long lets other requests and events have their turn. Event loop only."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

#: So long an answer is made before others may run, in seconds.
SLICE: Final = 0.002

#: Bytes of an answer that are sent together. What follows is made once they have gone out, so that a client that
#: stops reading keeps no more than them, and its place.
CHUNK: Final = 256 * 1024


class Turn:
    """A stretch of work on the loop; `over` tells when it has lasted long enough."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether it is time that others run."""
        return time.monotonic() - self._began > SLICE

    async def give_way(self) -> None:
        """Let others run; then the next turn begins."""
        await asyncio.sleep(0)
        self._began = time.monotonic()


async def send_members(
    handler: RequestHandler, members: Iterable[bytes | None], opening: bytes = b"{", closing: bytes = b"}"
) -> None:
    """Send a JSON object while it is made, and finish; a client that goes away ends it.

    A member is a name, a colon and a value, or several with commas between them; None is a step on which there was
    nothing to send.
    """
    handler.write(opening)
    separator, size = b"", len(opening)
    turn = Turn()
    try:
        for member in members:
            if member is not None:
                handler.write(separator)
                handler.write(member)
                separator, size = b",", size + len(member)
            if size > CHUNK:
                await handler.flush()
                if handler.request.method == "HEAD":  # the head is out, and nothing else will be
                    break
                size = 0
                await turn.give_way()
            elif turn.over:
                await turn.give_way()
        handler.finish(closing)
    except StreamClosedError:
        return
