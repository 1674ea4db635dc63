"""ManagementApi: what RabbitMQ's management plugin says of queues and AMQP does not. Event loop only."""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Final
from urllib.parse import quote, unquote, urlsplit

import msgspec
from tornado.httpclient import HTTPError, HTTPRequest
from tornado.httputil import HTTPInputError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

log = logging.getLogger(__name__)

#: Seconds that an answer may take, the connection included.
TIME_LIMIT: Final = 2.0

#: Bytes of an answer; a queue takes some 100.
MAX_ANSWER_BYTES: Final = 16 << 20

#: Seconds between two log lines that say why there is no answer.
LOG_INTERVAL: Final = 60.0


class _Queue(msgspec.Struct):
    name: str
    messages_unacknowledged: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ManagementApi:
    """The management API at one of `urls`, for the queues of one virtual host.

    The URLs may hold a user and a password. One that does not answer makes way for the next.
    """

    def __init__(self, urls: Sequence[str], virtual_host: str) -> None:
        self._urls = deque(urls)
        self._virtual_host = quote(virtual_host, safe="")
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=1, max_body_size=MAX_ANSWER_BYTES)
        self._logged_at = -LOG_INTERVAL

    async def unacknowledged(self) -> Mapping[str, int]:
        """Return by queue how many messages were delivered and are not acknowledged.

        A queue is missing where that is not known; none is there while the API does not answer, which is logged.
        """
        try:
            response = await self._client.fetch(self._request())
            queues = msgspec.json.decode(response.body, type=list[_Queue])
        except (HTTPError, HTTPInputError, OSError, ValueError) as exc:
            self._log(exc)
            self._urls.rotate(-1)
            return {}
        return {
            queue.name: queue.messages_unacknowledged for queue in queues if queue.messages_unacknowledged is not None
        }

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _request(self) -> HTTPRequest:
        parts = urlsplit(self._urls[0])
        return HTTPRequest(
            f"{self._where()}/queues/{self._virtual_host}?columns=name,messages_unacknowledged",
            auth_username=unquote(parts.username or "guest"),
            auth_password=unquote(parts.password or "guest"),
            follow_redirects=False,
            connect_timeout=TIME_LIMIT,
            request_timeout=TIME_LIMIT,
            user_agent="taskmon",
        )

    def _where(self) -> str:
        """Return the URL of the API, without user and password."""
        parts = urlsplit(self._urls[0])
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/') or '/api'}"

    def _log(self, exc: Exception) -> None:
        now = time.monotonic()
        if now - self._logged_at < LOG_INTERVAL:
            return
        self._logged_at = now
        log.warning(
            "RabbitMQ's management API at %s does not answer (%s): messages that workers hold are not counted;"
            " check --broker-api",
            self._where(),
            f"status {exc.code}" if isinstance(exc, HTTPError) else type(exc).__name__,
        )


def is_api_url(text: str) -> bool:
    """Whether a text is a URL that can be asked over HTTP."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
