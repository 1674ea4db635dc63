"""The worker and queue endpoints: who is there, how they are, how long their queues are. Event loop only."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ..auth import Role
from ..cluster.inspection import GENERAL, OF_ALL, OF_TASKS, Inspection
from ..errors import PermissionDenied, Unavailable, UnknownWorker, WorkerTimeout
from ..http.answers import QueueList, WorkerObject
from ..http.base import ApiHandler
from ..http.serializers import queue_lengths_body, queue_member, worker_body, worker_member
from ..http.time_slice import send_members
from ..parameters import Parameters
from ..records import Worker

_NOTHING: Final = Inspection()


class Refresh(Parameters):
    """Whether to ask the workers before answering."""

    refresh: Annotated[bool, Meta(description="Ask the workers first; that needs the role operator.")] = False


class WhichWorkers(Refresh):
    """What `/api/workers` takes."""

    workername: Annotated[str | None, Meta(description="Only this worker, with the lists of its tasks.")] = None
    status: Annotated[bool, Meta(description="Nothing but whether each worker is alive.")] = False


class WorkerHandler(ApiHandler):
    """The base of both: it knows how to have workers inspected."""

    async def refresh(self, hostname: str | None) -> None:
        """Have a worker inspected, or all: that takes an operator.

        A worker that sends no events may be known only by its answer, so the question is asked before it is unknown.
        """
        if self.current_user.role < Role.OPERATOR:
            raise PermissionDenied(
                f"refresh needs the role {Role.OPERATOR}, and {self.current_user.name} is a viewer"
            )
        if self.services.settings.read_only:
            raise PermissionDenied("taskmon is read-only (--read-only): workers are not asked, so refresh is refused")
        now = time.time()
        workers = self.monitor.state.workers
        online = [] if hostname is not None else [name for name, worker in workers.items() if worker.alive(now)]
        try:
            await self.monitor.inspector.refresh(hostname, online)
        except WorkerTimeout as exc:
            if hostname is not None and hostname not in workers:
                raise UnknownWorker(hostname) from exc
            raise

    def find_worker(self, hostname: str) -> Worker:
        """Give a worker; raises UnknownWorker."""
        worker = self.monitor.state.workers.get(hostname)
        if worker is None:
            raise UnknownWorker(hostname)
        return worker

    def all_of(self, hostname: str) -> tuple[Mapping[str, msgspec.Raw], float | None]:
        """Return all the answers of a worker, as far as who asks may see them, and the time of the oldest."""
        return self.part_of(hostname, GENERAL + OF_TASKS)

    def part_of(self, hostname: str, methods: Iterable[str]) -> tuple[Mapping[str, msgspec.Raw], float | None]:
        """Return some of them."""
        answers, inspected = self.inspection(hostname).part(methods)
        return self.services.showing.inspected(answers, self.current_user.role), inspected

    def inspection(self, hostname: str) -> Inspection:
        """Give what is known of a worker from inspects."""
        return self.monitor.inspector.inspections.get(hostname, _NOTHING)


class Workers(WorkerHandler):
    path = "/api/workers"
    summary = "The workers"
    role = Role.VIEWER
    parameters = WhichWorkers
    response_type = dict[str, WorkerObject | bool]
    errors = (UnknownWorker, Unavailable, WorkerTimeout)

    async def get(self) -> None:
        """Answer the workers by hostname, or with `status` whether each of them is alive."""
        given: WhichWorkers = self.parse_parameters()
        hostname = given.workername
        if given.refresh:
            await self.refresh(hostname)
        now = time.time()
        if given.status:
            self.answer({worker.hostname: worker.alive(now) for worker in self.monitor.state.workers.values()})
        elif hostname is not None:
            worker = self.find_worker(hostname)
            self.answer({hostname: worker_body(worker, *self.all_of(hostname), now)})
        else:
            await send_members(self, self._members(now))

    def _members(self, now: float) -> Iterator[bytes]:
        for worker in list(self.monitor.state.workers.values()):
            yield worker_member(worker, *self.part_of(worker.hostname, OF_ALL), now)


class WorkerInfo(WorkerHandler):
    path = "/api/workers/{hostname}"
    summary = "One worker"
    role = Role.VIEWER
    parameters = Refresh
    response_type = WorkerObject
    errors = (UnknownWorker, Unavailable, WorkerTimeout)

    async def get(self, hostname: str) -> None:
        """Answer all that is known of one worker."""
        if self.parse_parameters().refresh:
            await self.refresh(hostname)
        worker = self.find_worker(hostname)
        self.answer(worker_body(worker, *self.all_of(hostname), time.time()))


class QueueLengths(ApiHandler):
    path = "/api/queues/length"
    summary = "How many messages wait in each queue"
    role = Role.VIEWER
    response_type = QueueList
    errors = (Unavailable,)

    async def get(self) -> None:
        """Answer how many messages wait in each known queue, and why that is not known where it is not."""
        queues = await self.monitor.queues.all_lengths()
        self.answer(
            queue_lengths_body(
                [queue_member(q.name, q.messages, q.unacknowledged, q.consumers, q.reason) for q in queues]
            )
        )
