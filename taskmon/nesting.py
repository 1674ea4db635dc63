"""What JSON must be like: how deep lists and dicts may lie in one another, and that no key is there twice. Pure.

Whoever walks through a value calls himself for each level, and so do Celery's workers, which a deeper one ends.
"""

import json
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


def find_repeated_key(text: str | bytes) -> str | None:
    """Return a key that an object in a JSON text has twice, None without one: readers differ in which one counts."""
    repeated: list[str] = []

    def check(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(text, object_pairs_hook=check, parse_int=len, parse_float=len)
    return repeated[0] if repeated else None
