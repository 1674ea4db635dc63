"""The requests that are sent to Flower and to taskmon alike: every route, every argument, good and bad.

One request a line, in the order in which they are sent: method, path, perhaps a JSON body. `<name>` stands for what
`Scene` knows by that name. A word in front says what is different about a request:

- `anonymous`, `wrong`: without credentials, with a wrong password;
- `form`: the query string goes as a form, or the JSON body under a form's content type;
- `shape`: of the answers only keys and types are compared, not the values.
"""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from patience import PATIENCE

READING = """
GET /healthcheck
HEAD /healthcheck
anonymous GET /healthcheck
anonymous GET /api/tasks
anonymous GET /api/task/info/<success>
anonymous GET /api/workers
anonymous POST /api/task/revoke/<unknown>
anonymous POST /api/task/async-apply/project.add {"args": [1, 2]}
wrong GET /api/tasks
GET /api/nothing
GET /api/task/info/
GET /api/task/apply/project.add
DELETE /api/task/info/<success>
POST /api/tasks
HEAD /api/tasks
OPTIONS /api/tasks
anonymous OPTIONS /api/tasks
GET /api/tasks/
GET /api/task/types
shape GET /workers?json=1
shape GET /workers?json=true
shape GET /tasks/datatable?draw=7&start=0&length=3&search[value]=fail&order[0][column]=1&columns[1][data]=received
shape GET /tasks/datatable?draw=7&start=1&length=2&search[value]=name:add&order[0][column]=0&columns[0][data]=received
GET /tasks/datatable?draw=7&start=0&length=0&search[value]=name:add&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?draw=7&start=0&length=1&search[value]=unheard-of&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?draw=7&start=0&length=1&search[value]=ab&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?draw=7&start=0&length=1&search[value]=NOT x&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?start=0&length=1&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?draw=x&start=0&length=1&order[0][column]=0&columns[0][data]=started
GET /tasks/datatable?draw=1&start=0&length=1
form POST /tasks/datatable?draw=7&start=0&length=9&search[value]=unheard-of&order[0][column]=0&columns[0][data]=name
anonymous GET /workers?json=1
anonymous GET /tasks/datatable?draw=7&start=0&length=1&order[0][column]=0
GET /api/task/info/<success>
GET /api/task/info/<failure>
GET /api/task/info/<retried>
GET /api/task/info/<revoked>
GET /api/task/info/<eta>
GET /api/task/info/<expired>
GET /api/task/info/<rejected>
GET /api/task/info/<progress>
GET /api/task/info/<pending>
GET /api/task/info/<cut>
GET /api/task/info/<quoted>
GET /api/task/info/<parent>
GET /api/task/info/<child>
GET /api/task/info/<chained>
GET /api/task/info/<unknown>
GET /api/tasks
GET /api/tasks?
GET /api/tasks?limit=2
GET /api/tasks?limit=2&offset=1
GET /api/tasks?limit=0
GET /api/tasks?limit=
GET /api/tasks?limit=-1
GET /api/tasks?limit=x
GET /api/tasks?limit=1.5
GET /api/tasks?offset=1000
GET /api/tasks?offset=-1
GET /api/tasks?offset=x
GET /api/tasks?sort_by=received&taskname=project.add
GET /api/tasks?sort_by=-received&taskname=project.add
GET /api/tasks?sort_by=started&state=SUCCESS
GET /api/tasks?sort_by=-started&state=SUCCESS
GET /api/tasks?sort_by=received&state=SUCCESS&limit=3&offset=2
GET /api/tasks?sort_by=-name&state=SUCCESS&limit=1
GET /api/tasks?sort_by=name
GET /api/tasks?sort_by=runtime&limit=1
GET /api/tasks?sort_by=nothing
GET /api/tasks?sort_by=
GET /api/tasks?workername=<worker>
GET /api/tasks?workername=nobody@nowhere
GET /api/tasks?workername=All
GET /api/tasks?taskname=project.fail
GET /api/tasks?taskname=project.nothing
GET /api/tasks?taskname=<named>
GET /api/tasks?taskname=All
GET /api/tasks?state=FAILURE
GET /api/tasks?state=REVOKED
GET /api/tasks?state=All
GET /api/tasks?state=NOTHING
GET /api/tasks?state=failure
GET /api/tasks?state=all
GET /api/tasks?search=state:failure
GET /api/tasks?workername=<worker>&taskname=project.add&state=SUCCESS&limit=1&sort_by=received
GET /api/tasks?received_start=<hour-ago>&state=SUCCESS
GET /api/tasks?received_start=<in-an-hour>&state=SUCCESS
GET /api/tasks?received_end=<in-an-hour>&state=SUCCESS
GET /api/tasks?received_end=<hour-ago>&state=SUCCESS
GET /api/tasks?received_end=<hour-ago>&state=PENDING
GET /api/tasks?received_start=yesterday
GET /api/tasks?received_end=yesterday
GET /api/tasks?received_start=2026-01-31T13:30:00Z
GET /api/tasks?search=project.fail
GET /api/tasks?search=PROJECT.FAIL
GET /api/tasks?search=name:fail
GET /api/tasks?search=state:FAILURE
GET /api/tasks?search=worker:<worker>
GET /api/tasks?search=args:"it's"
GET /api/tasks?search=result:<é>
GET /api/tasks?search=kwargs:message=lost
GET /api/tasks?search=fail OR retry
GET /api/tasks?search=(fail OR retry) AND state:SUCCESS
GET /api/tasks?search=<success>
GET /api/tasks?search=xy
GET /api/tasks?search=NOT fail
GET /api/tasks?search=-fail
GET /api/tasks?search=(fail
GET /api/tasks?search=nothing:at-all
GET /api/tasks?search=queue:live
GET /api/tasks?search=
GET /api/tasks?nothing=1
GET /api/tasks?limit=1&limit=2
GET /api/tasks?limit=+3
GET /api/tasks?offset=
GET /api/tasks?taskname=
GET /api/tasks?received_start=
GET /api/tasks?received_start=<hour-ago>:30&state=SUCCESS
GET /api/tasks?search=args:(2, 3)
GET /api/tasks?search="project.add" state:SUCCESS
GET /api/tasks?search=name:add OR name:fail
GET /api/tasks?search=kwargs:message
GET /api/tasks?search=add AND
GET /api/task/info/<success>/
GET /api/task/info/<success>/more
GET /api/task/result/<success>
GET /api/task/result/<failure>
GET /api/task/result/<retried>
GET /api/task/result/<quoted>
GET /api/task/result/<not-a-number>
GET /api/task/result/<eta>
GET /api/task/result/<revoked>
GET /api/task/result/<unknown>
GET /api/task/result/<success>?timeout=1
GET /api/task/result/<success>?timeout=0.5
GET /api/task/result/<eta>?timeout=0.1
GET /api/task/result/<success>?timeout=100
GET /api/task/result/<success>?timeout=0
GET /api/task/result/<success>?timeout=
GET /api/task/result/<success>?timeout=-1
GET /api/task/result/<success>?timeout=x
GET /api/task/result/<eta>?timeout=x
GET /api/queues/length
shape GET /api/workers
shape GET /api/workers?refresh=1
shape GET /api/workers?refresh=0
GET /api/workers?refresh=perhaps
shape GET /api/workers?refresh=&status=&workername=
GET /api/workers?status=1
GET /api/workers?status=yes
GET /api/workers?status=perhaps
shape GET /api/workers?workername=<worker>&refresh=true
shape GET /api/workers?workername=<worker>
GET /api/workers?workername=nobody@nowhere
GET /api/workers?status=1&workername=<worker>
GET /metrics
anonymous GET /metrics
"""

# Early, so that new processes run when others are stopped: a worker that does both at once is silent for long.
GROWING = """
POST /api/worker/pool/grow/<worker>
POST /api/worker/pool/grow/<worker>?n=2
form POST /api/worker/pool/grow/<worker>?n=1
POST /api/worker/pool/grow/<worker> {"n": 2}
POST /api/worker/pool/grow/<worker>?n=0
POST /api/worker/pool/grow/<worker>?n=x
POST /api/worker/pool/grow/<worker>?n=1.5
POST /api/worker/pool/grow/<worker>?n=
POST /api/worker/pool/grow/<worker>?n=-1
POST /api/worker/pool/grow/<worker>?n=1&nothing=1
POST /api/worker/pool/grow/nobody@nowhere
"""

PUBLISHING = """
POST /api/task/apply/project.add {"args": [1, 2]}
POST /api/task/apply/project.echo {"kwargs": {"value": [1, "it's", null, {"a": 1.5}]}}
POST /api/task/apply/project.fail {"args": ["lost"]}
POST /api/task/apply/project.add {"args": [1, 2], "countdown": 0.1}
POST /api/task/apply/project.sleep {"args": [60], "timeout": 0.2}
POST /api/task/apply/project.sleep?timeout=0.2 {"args": [8]}
POST /api/task/apply/project.nothing {"args": []}
POST /api/task/apply/project.add {"args": [1, 2], "task_id": "<success>"}
POST /api/task/apply/project.add {"args": [1]}
POST /api/task/apply/project.add
POST /api/task/apply/project.add {"args": 5}
POST /api/task/apply/project.add {"kwargs": 5}
POST /api/task/apply/project.add [1, 2]
POST /api/task/apply/project.add {"args": [1,
POST /api/task/apply/project.add {"args": [1, 2], "eta": "tomorrow"}
form POST /api/task/apply/project.add {"args": [3, 4]}
shape POST /api/task/async-apply/project.add {"args": [1, 2]}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "eta": "<eta-date>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "countdown": 3600}
POST /api/task/async-apply/project.add {"args": [1, 2], "eta": "<eta-iso>"}
POST /api/task/async-apply/project.add {"args": [1, 2], "eta": null, "expires": null}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "expires": 60}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "expires": "<eta-date>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "queue": "<queue>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "exchange": "<queue>", "routing_key": "<queue>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "exchange": "", "routing_key": "<queue>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "priority": 3}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "retry": false}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "task_id": "<new id>"}
shape POST /api/task/async-apply/project.add {"args": [1, 2], "kwargs": {}}
POST /api/task/async-apply/project.add {"args": null, "kwargs": null}
POST /api/task/async-apply/project.add {"args": [1, 2], "countdown": -1}
POST /api/task/async-apply/project.add {"args": [1, 2], "countdown": "1"}
POST /api/task/async-apply/project.add {"args": [1, 2], "priority": 300}
POST /api/task/async-apply/project.add {"args": [1, 2], "priority": "x"}
POST /api/task/async-apply/project.add {"args": [1, 2], "queue": "a b"}
POST /api/task/async-apply/project.add {"args": [1, 2], "queue": 5}
POST /api/task/async-apply/project.add {"args": [1, 2], "retry": "yes"}
POST /api/task/async-apply/project.add {"args": [1, 2], "task_id": ""}
POST /api/task/async-apply/project.add {"args": [1, 2], "task_id": 5}
POST /api/task/async-apply/project.add {"args": [1, 2], "expires": -1}
POST /api/task/async-apply/project.add {"args": [1, 2], "eta": 5}
shape POST /api/task/async-apply/project.add?nothing=1 {"args": [1, 2]}
POST /api/task/async-apply/project.add {"args": [1, 2], "serializer": "json"}
POST /api/task/async-apply/project.add {"args": [1, 2], "nothing": 1}
POST /api/task/async-apply/project.nothing {"args": [1, 2]}
POST /api/task/async-apply/project.add {"args": [1]}
POST /api/task/async-apply/project.add {"args": 5}
POST /api/task/async-apply/project.add {"kwargs": 5}
POST /api/task/async-apply/project.add [1, 2]
POST /api/task/async-apply/project.add {"args": [1,
POST /api/task/async-apply/project.add {"args": [1, 2], "eta": "tomorrow"}
POST /api/task/async-apply/project.add {"args": [1, 2], "countdown": "x"}
POST /api/task/async-apply/project.add {"args": [1, 2], "expires": "x"}
shape POST /api/task/send-task/project.add {"args": [1, 2]}
shape POST /api/task/send-task/unheard.of {"args": [1, 2], "queue": "<other-queue>"}
shape POST /api/task/send-task/unheard.of {"kwargs": {"a": 1}, "countdown": 1, "queue": "<other-queue>"}
POST /api/task/send-task/unheard.of {"args": 5}
POST /api/task/send-task/unheard.of {"kwargs": 5}
POST /api/task/send-task/unheard.of [1, 2]
POST /api/task/send-task/unheard.of {"args": [1,
POST /api/task/abort/<eta>
POST /api/task/abort/<unknown>
POST /api/task/abort/<success>
"""

COMMANDING = """
POST /api/task/revoke/<eta>
POST /api/task/revoke/<unknown>
POST /api/task/revoke/<unknown>?terminate=1
POST /api/task/revoke/<unknown>?terminate=True&signal=SIGKILL
form POST /api/task/revoke/<unknown>?terminate=true&signal=SIGTERM
POST /api/task/revoke/<unknown>?terminate=false
POST /api/task/revoke/<unknown>?terminate=perhaps
POST /api/task/revoke/<unknown>?terminate=1&signal=SIGNOTHING
POST /api/task/revoke/<unknown>?terminate=
POST /api/task/revoke/<unknown>?signal=
POST /api/task/revoke/<unknown>?terminate=1&signal=kill
POST /api/task/revoke/<unknown>?terminat=1
POST /api/task/timeout/project.add?workername=<worker>&soft=30&hard=60
POST /api/task/timeout/project.add?workername=<worker>&soft=30
form POST /api/task/timeout/project.add?workername=<worker>&hard=60.5
POST /api/task/timeout/project.add?workername=<worker>
POST /api/task/timeout/project.add?workername=<worker>&soft=
form POST /api/task/timeout/project.add?workername=<worker>&type=hard&hard=60
POST /api/worker/pool/grow/<worker>?n=1&workername=<worker>
POST /api/task/timeout/project.add?workername=<worker>&soft=x
POST /api/task/timeout/project.add?workername=<worker>&hard=-1
POST /api/task/timeout/project.add?workername=<worker>&soft=60&hard=30
POST /api/task/timeout/project.add?soft=30
POST /api/task/timeout/project.add?workername=nobody@nowhere&soft=30
POST /api/task/timeout/project.nothing?workername=<worker>&soft=30
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=1000
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=10000/m
form POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=0
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=often
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=1.5/s
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=-1
POST /api/task/rate-limit/project.add?workername=<worker>&ratelimit=0
POST /api/task/rate-limit/project.add?workername=<worker>
POST /api/task/rate-limit/project.add?ratelimit=1000
POST /api/task/rate-limit/project.add?workername=nobody@nowhere&ratelimit=1000
POST /api/task/rate-limit/project.nothing?workername=<worker>&ratelimit=1000
POST /api/worker/pool/shrink/<worker>
POST /api/worker/pool/shrink/<worker>?n=2
POST /api/worker/pool/shrink/<worker>?n=0
POST /api/worker/pool/shrink/<worker>?n=x
POST /api/worker/pool/shrink/nobody@nowhere
POST /api/worker/pool/restart/<worker>
POST /api/worker/pool/restart/nobody@nowhere
POST /api/worker/pool/autoscale/<worker>?min=1&max=2
POST /api/worker/pool/autoscale/<worker>?min=3&max=2
POST /api/worker/pool/autoscale/<worker>?min=1
POST /api/worker/pool/autoscale/<worker>?max=2
POST /api/worker/pool/autoscale/<worker>?min=x&max=2
POST /api/worker/pool/autoscale/nobody@nowhere?min=1&max=2
POST /api/worker/pool/restart/<spare>
POST /api/worker/pool/autoscale/<spare>?min=1&max=2
POST /api/worker/pool/grow/<spare>
POST /api/worker/queue/add-consumer/<worker>?queue=<other-queue>
form POST /api/worker/queue/add-consumer/<worker>?queue=<other-queue>
POST /api/worker/queue/add-consumer/<worker>
POST /api/worker/queue/add-consumer/<worker>?queue=
POST /api/worker/queue/add-consumer/<worker>?queue=a b
POST /api/worker/queue/add-consumer/nobody@nowhere?queue=<other-queue>
POST /api/worker/queue/add-consumer/<its own>?queue=<other-queue>
POST /api/worker/queue/cancel-consumer/<its own>?queue=<other-queue>
POST /api/worker/queue/cancel-consumer/<worker>?queue=unheard-of
POST /api/worker/queue/cancel-consumer/<worker>
POST /api/worker/queue/cancel-consumer/nobody@nowhere?queue=<other-queue>
POST /api/worker/shutdown/nobody@nowhere
POST /api/worker/shutdown/<its own>
"""

_PLACE = re.compile(r"<([a-z -]+)>")


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the content type, the JSON or the text of the body."""

    status: int
    content_type: str
    body: Any


@dataclass(frozen=True)
class Request:
    """One line of the tables."""

    line: str

    @cached_property
    def words(self) -> tuple[str, str, str, str]:
        """The word in front, the method, the path with its query string, and the JSON body; empty where missing."""
        found = re.fullmatch(r"(?:([a-z]+) )?([A-Z]+) (/.*?)(?: ([\[{].*))?", self.line)
        assert found is not None, self.line
        return found[1] or "", found[2], found[3], found[4] or ""

    @property
    def momentary(self) -> bool:
        """Whether the answer is about this moment, of which two that are asked one after the other cannot agree."""
        return self.words[2].startswith(("/metrics", "/api/workers", "/workers", "/api/queues/length"))

    @property
    def shape_only(self) -> bool:
        """Whether the values of the answers may differ."""
        return self.words[0] == "shape"

    def send(self, url: str, credentials: str, known: Mapping[str, str]) -> Answer:
        """Send it to a monitor, `credentials` being user:password."""
        how, method, path, text = self.words
        path, _, query = path.partition("?")
        path = "/".join(quote(part, safe="@") for part in fill(path, known).split("/"))
        query = "&".join(quote(fill(part, known), safe="=@") for part in query.split("&"))
        body = fill(text, known).encode() if text else None
        headers = {"Content-Type": "application/x-www-form-urlencoded" if how == "form" else "application/json"}
        if how == "form" and body is None:
            body, query = query.encode(), ""
        if how != "anonymous":
            password = credentials + ("wrong" if how == "wrong" else "")
            headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
        if method == "POST" and body is None:
            body = b""
        asked = urllib.request.Request(
            f"{url}{path}{'?' * bool(query)}{query}", data=body, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=2 * PATIENCE) as response:
                return _read(response.status, response)
        except urllib.error.HTTPError as refused:
            with refused:
                return _read(refused.code, refused)


def read_table(text: str) -> list[Request]:
    """Give the requests of a table."""
    return [Request(line) for line in text.strip().splitlines()]


def fill(text: str, known: Mapping[str, str]) -> str:
    """Put in what `<name>` stands for."""
    return _PLACE.sub(lambda found: known[found[1]], text)


def _read(status: int, response: Any) -> Answer:
    text = response.read().decode()
    content_type = response.headers.get("Content-Type", "")
    try:
        return Answer(status, content_type, json.loads(text))
    except ValueError:
        return Answer(status, content_type, text)
