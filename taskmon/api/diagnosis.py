"""What is known around a task, and what is known to be missing: the tree of a task, and what is wrong with the
cluster's settings. Event loop only.
"""

from ..auth import Role
from ..errors import Unavailable, UnknownTask
from ..http.answers import Findings, TreeObject
from ..http.base import ApiHandler
from ..http.serializers import diagnostics_body, finding_member, tree_member, tree_opening
from ..http.time_slice import Turn, send_members
from ..monitor.tree import Tree, gather_tree
from .listing import warn_of_history


class TaskTree(ApiHandler):
    path = "/api/task/tree/{task_id}"
    summary = "The tasks that belong to one workflow"
    role = Role.VIEWER
    response_type = TreeObject
    errors = (UnknownTask,)

    async def get(self, task_id: str) -> None:
        """Answer the tasks that belong to this one's tree; 404 with a `reason` when nothing is known of the id."""
        try:
            tree = await self._find(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.services.why_unknown(self.monitor, exc.reason)) from exc
        members = (tree_member(one.task_id, one.task, one.parent, one.children) for one in tree.members)
        await send_members(self, members, tree_opening(tree.task_id, tree.root, tree.truncated), b"}}")

    async def _find(self, task_id: str) -> Tree:
        """Find the tree in memory, or in the history where memory may not hold all of it."""
        history = self.services.history
        if history is None or history.is_all_in_memory:
            return await self._gather(task_id)
        try:
            return await history.find_tree(task_id)
        except Unavailable:
            warn_of_history(self)
            return await self._gather(task_id)

    async def _gather(self, task_id: str) -> Tree:
        """Put the tree together, a slice at a time."""
        gathering = gather_tree(self.monitor.state, task_id)
        turn = Turn()
        while (tree := next(gathering)) is None:
            if turn.over:
                await turn.give_way()
        return tree


class Diagnostics(ApiHandler):
    path = "/api/diagnostics"
    summary = "What makes answers incomplete"
    role = Role.VIEWER
    response_type = Findings

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
                causes=finding.causes,
            )
            for finding in self.monitor.diagnostics.examine()
            if self.services.showing.may_know(finding.code, self.current_user.role)
        ]
        self.answer(diagnostics_body(findings))
