"""What is known around a task, and what is known to be missing: the tree of a task, and what is wrong with the
cluster's settings. Event loop only.
"""

import asyncio
import time
from typing import Final

from tornado.iostream import StreamClosedError

from ..auth import Role
from ..errors import UnknownTask
from ..serializers import diagnostics_body, finding_member, tree_member, tree_opening
from ..tree import Tree, gather_tree
from .base import ApiHandler

_SLICE: Final = 0.005
_CHUNK: Final = 128 * 1024


class TaskTree(ApiHandler):
    """GET `/api/task/tree/<id>`."""

    role = Role.VIEWER

    async def get(self, task_id: str) -> None:
        """Answer the tasks that belong to this one's tree; 404 with a `reason` when nothing is known of the id."""
        try:
            tree = await self._gather(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.services.why_unknown(exc.reason)) from exc
        try:
            await self._send(tree)
        except StreamClosedError:
            return

    async def _gather(self, task_id: str) -> Tree:
        """Put the tree together, a slice at a time."""
        gathering = gather_tree(self.services.state, task_id)
        began = time.monotonic()
        while (tree := next(gathering)) is None:
            if time.monotonic() - began > _SLICE:
                await asyncio.sleep(0)
                began = time.monotonic()
        return tree

    async def _send(self, tree: Tree) -> None:
        opening = tree_opening(tree.task_id, tree.root, tree.truncated)
        self.write(opening)
        size = len(opening)
        began = time.monotonic()
        for number, member in enumerate(tree.members):
            part = tree_member(member.task_id, member.task, member.parent, member.children)
            self.write(b"," + part if number else part)
            size += len(part)
            if time.monotonic() - began > _SLICE:
                await (self.flush() if size > _CHUNK else asyncio.sleep(0))
                size = 0 if size > _CHUNK else size
                began = time.monotonic()
        self.finish(b"}}")


class Diagnostics(ApiHandler):
    """GET `/api/diagnostics`."""

    role = Role.VIEWER

    def get(self) -> None:
        """Answer what makes answers incomplete, and the settings that mend it."""
        findings = [
            finding_member(
                finding.code,
                finding.message,
                finding.setting,
                count=finding.count,
                reason=finding.reason,
                workers=finding.workers,
                tasks=finding.tasks,
                seconds=finding.seconds,
            )
            for finding in self.services.diagnostics.examine()
        ]
        self.answer(diagnostics_body(findings))
