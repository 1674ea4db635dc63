"""Task fields: how each is filtered, sorted and indexed, in memory and in the history. Pure."""

from datetime import tzinfo
from typing import Annotated, Any, Final, Literal

from msgspec import Struct

from ..parameters import TEXT_SCHEMA, Format, TaskId, read_text


def _read_choice(argument: str, value: object, zone: tzinfo) -> str | None:
    """Return a text, None for All, which Flower's pages send for no filter."""
    text = read_text(argument, value, zone)
    return None if text == "All" else text


def _read_state(argument: str, value: object, zone: tzinfo) -> str | None:
    state = _read_choice(argument, value, zone)
    return None if state is None else state.upper()


Choice = Annotated[str | None, Format(_read_choice, TEXT_SCHEMA, absent="empty")]
StateName = Annotated[str | None, Format(_read_state, TEXT_SCHEMA, absent="empty")]


class TaskField(Struct, frozen=True):
    """A field of Task, whose column in the history has the same name.

    `argument` is the name of the filter by one value in requests, `value` the type of its values, `meaning` its
    description. `is_range` is for a time that is filtered by `<name>_start` and `<name>_end`. `index` is how tasks
    are indexed: in groups of one value each, or in the order of the field; an index that is new needs a step of the
    history's schema. `indexed_where` is the SQL condition for the rows that the history's index of a sparse field
    has; nothing is sorted by such a field, so memory has no group for tasks without a value.
    """

    name: str
    argument: str | None = None
    value: Any = str | None
    meaning: str = ""
    is_range: bool = False
    is_sort_key: bool = False
    index: Literal["groups", "order"] | None = None
    has_zone_map: bool = False
    indexed_where: str | None = None


#: Every field that is filtered by, sorted by or indexed. `timestamp` is the order of each group.
TASK_FIELDS: Final = (
    TaskField(
        "name",
        "taskname",
        Choice,
        "Name of the task; All is no filter.",
        is_sort_key=True,
        index="groups",
        has_zone_map=True,
    ),
    TaskField(
        "state",
        "state",
        StateName,
        "State, in any case; All is no filter.",
        is_sort_key=True,
        index="groups",
        has_zone_map=True,
    ),
    TaskField("received", is_range=True, is_sort_key=True, index="order", has_zone_map=True),
    TaskField("started", is_range=True, is_sort_key=True, index="order", has_zone_map=True),
    TaskField("succeeded", is_sort_key=True, index="order"),
    TaskField("failed", is_sort_key=True, index="order"),
    TaskField("runtime", is_sort_key=True, index="order"),
    TaskField("timestamp", is_sort_key=True),
    TaskField("retries", is_sort_key=True, index="groups"),
    TaskField(
        "worker",
        "workername",
        Choice,
        "Hostname of the worker; All is no filter.",
        is_sort_key=True,
        index="groups",
        has_zone_map=True,
    ),
    TaskField(
        "root_id",
        "root_id",
        TaskId,
        "Id of the first task of a workflow.",
        index="groups",
        indexed_where="root_id <> uuid",  # most tasks are their own only root
    ),
    TaskField(
        "parent_id",
        "parent_id",
        TaskId,
        "Id of the task that published it.",
        index="groups",
        indexed_where="parent_id IS NOT NULL",
    ),
    TaskField(
        "queue",
        "queue",
        str | None,
        "Queue it was published to.",
        index="groups",
        has_zone_map=True,
        indexed_where="queue IS NOT NULL",
    ),
    TaskField("client", "client", str | None, "Hostname of the process that published it.", has_zone_map=True),
)

#: The fields that are filtered by one value, and those by a range.
VALUE_FILTERS: Final = tuple(field.name for field in TASK_FIELDS if field.argument)
RANGE_FILTERS: Final = tuple(field.name for field in TASK_FIELDS if field.is_range)
#: The fields that may be sorted by; in requests they have the same names.
SORT_KEYS: Final = tuple(field.name for field in TASK_FIELDS if field.is_sort_key)

#: The fields by whose value tasks are grouped, those of them that tasks may lack without a group, and the others that
#: tasks are ordered by.
GROUPED: Final = tuple(field.name for field in TASK_FIELDS if field.index == "groups")
ORDERED: Final = tuple(field.name for field in TASK_FIELDS if field.index == "order")
SPARSE: Final = {field.name: field.indexed_where for field in TASK_FIELDS if field.indexed_where}

#: The fields of which zone maps know each task's value, and the times of which they know the order.
ZONE_MAPPED_VALUES: Final = tuple(field.name for field in TASK_FIELDS if field.has_zone_map and field.argument)
ZONE_MAPPED_TIMES: Final = tuple(field.name for field in TASK_FIELDS if field.has_zone_map and field.is_range)
