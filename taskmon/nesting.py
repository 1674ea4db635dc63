"""How deep lists and dicts may lie in one another, in JSON that comes in or goes out. Pure.

Whoever walks through a value calls himself for each level, and so do Celery's workers, which a deeper one ends.
"""

from typing import Any, Final

#: So many levels.
MAX_DEPTH: Final = 100


def is_too_deep(text: bytes, value: Any) -> bool:
    """Tell whether what was decoded of a JSON text has more than MAX_DEPTH levels."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:  # as nearly always
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _members(item) if isinstance(inner, list | dict)]
        if not level:
            return False
    return True


def _members(item: Any) -> Any:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
