"""Terms and groups become closures: fast yes-or-no questions about one task.

Pure. All is compiled once, since a search may be put to every task that is held. Case matters in root and parent ids
only. No group of terms folds a text twice.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from .language import EXACT_FIELDS, Node, Terms
from .pairs import make_pair_check

if TYPE_CHECKING:
    from ...records import Task

#: The second argument is what `_haystack` says of the task, or empty where nobody has asked it yet.
Check = Callable[["Task", str], bool]
Source = Callable[["Task", str], str]


def compile_terms(node: Node) -> Callable[["Task"], bool]:
    """Make the question whether a task matches."""
    check = _compile(node).check
    return lambda task: check(task, "")


class _Compiled(NamedTuple):
    """`plain`: it looks into the haystack, somewhere. Of two, that of lower cost is asked first."""

    cost: int
    plain: bool
    check: Check


_COSTS: Final = {"state": 0, "root_id": 0, "parent_id": 0, "name": 1, "worker": 1, "queue": 1}
_LONG_COST: Final = 2
_PAIR_COST: Final = 3
_PLAIN_COST: Final = 4


def _haystack(task: "Task", text: str) -> str:
    """Give all that a plain term looks into, folded; no term has the NUL between the fields."""
    return (
        text
        or "\0".join(
            (
                task.uuid,
                task.name or "",
                task.state,
                task.worker or "",
                task.args or "",
                task.kwargs or "",
                task.result or "",
            )
        ).casefold()
    )


def _folded(name: str) -> Source:
    """Make the function that gives one field of a task, folded, and nothing for None."""
    get: Callable[[Task], str | None] = attrgetter(name)

    def source(task: "Task", text: str) -> str:
        value = get(task)
        return value.casefold() if value else ""

    return source


def _compile(node: Node) -> _Compiled:
    """Compile a term or a group."""
    group = node if isinstance(node, Terms) else Terms(True, [node])
    needles: dict[str | None, dict[tuple[str, bool], None]] = {}  # those of one text are looked for together
    parts: list[_Compiled] = []
    for member in group.members:
        if isinstance(member, Terms):
            parts.append(_compile(member))
        elif member.key is not None:
            parts.append(_Compiled(_PAIR_COST, False, make_pair_check(member.key, member.text, member.wanted)))
        elif member.field in EXACT_FIELDS.values():
            parts.append(_Compiled(0, False, _exact(member.field, member.text, member.wanted)))
        else:
            needles.setdefault(member.field, {})[member.text.casefold(), member.wanted] = None
    for name, wanted in needles.items():
        source = _haystack if name is None else _folded(name)
        cost = _PLAIN_COST if name is None else _COSTS.get(name, _LONG_COST)
        parts.append(_Compiled(cost, name is None, _contains(source, tuple(wanted), group.every)))
    return _join(parts, group.every)


def _contains(source: Source, needles: tuple[tuple[str, bool], ...], every: bool) -> Check:
    """Look for every needle, or any; a needle that is not wanted must be missing."""
    needle, wanted = needles[0]
    if len(needles) == 1 and wanted:
        return lambda task, text: needle in source(task, text)

    def check(task: "Task", text: str) -> bool:
        folded = source(task, text)
        for needle, wanted in needles:
            if ((needle in folded) is wanted) is not every:
                return not every
        return every

    return check


def _exact(name: str | None, value: str, wanted: bool) -> Check:
    """Compare a state, whose case does not matter, or an id, whose case does."""
    if name == "state":
        state = value.casefold()
        return lambda task, text: (task.state.casefold() == state) is wanted
    if name == "root_id":
        return lambda task, text: (task.root_id == value) is wanted
    return lambda task, text: (task.parent_id == value) is wanted


def _join(parts: list[_Compiled], every: bool) -> _Compiled:
    """Ask the parts in the order of their cost, those that need the haystack last, and make it once."""
    if len(parts) == 1:
        return parts[0]
    parts.sort(key=lambda part: (part.plain, part.cost))
    cost = parts[-1].cost
    plain = parts[-1].plain
    late = tuple(part.check for part in parts if part.plain)
    early = tuple(part.check for part in parts if not part.plain)
    if len(late) < 2:
        early, late = early + late, ()

    def check(task: "Task", text: str) -> bool:
        for part in early:
            if part(task, text) is not every:
                return not every
        if late:
            text = _haystack(task, text)
            for part in late:
                if part(task, text) is not every:
                    return not every
        return every

    return _Compiled(cost, plain, check)
