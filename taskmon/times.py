"""Moments as texts: epoch seconds, ISO 8601 or Flower's `2026-01-31 13:30`. Pure."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

from .errors import InvalidArgument

_SECONDS: Final = r"-?[0-9]{1,12}(?:\.[0-9]{1,20})?(?:[eE]-[0-9]{1,3})?"
#: The pattern of a date.
DATE: Final = (
    r"(?P<year>000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
    r"-(?P<month>0?[1-9]|1[0-2])-(?P<day>0?[1-9]|[12][0-9]|3[01])"
    r"[Tt ](?P<hour>[01]?[0-9]|2[0-3]):(?P<minute>[0-5]?[0-9])"
    r"(?::(?P<second>[0-5]?[0-9])(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?:(?P<utc> ?[Zz])|(?P<sign> ?[+-]| )(?P<hours>[01][0-9]|2[0-3])(?::?(?P<minutes>[0-5][0-9]))?)?"
)
_TIME_RULE: Final = (
    "must be a time such as 2026-01-31 13:30, 2026-01-31T13:30:00+01:00 or 1769862600 (seconds since 1970)"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The year 10000 in epoch seconds: milliseconds by mistake are beyond it.
MAX_EPOCH: Final = 253_402_300_800


def parse_time(argument: str, text: str, zone: tzinfo) -> float:
    """Parse epoch seconds, ISO 8601 or Flower's `2026-01-31 13:30` to epoch seconds, in `zone` by default.

    The + of an offset may have become a blank, as it does in a URL. Raises InvalidArgument.
    """
    value = text.strip()
    if re.fullmatch(_SECONDS, value) and abs(float(value)) < MAX_EPOCH:
        return float(value)
    date = re.fullmatch(DATE, value)
    if date is None:
        raise InvalidArgument(argument, _TIME_RULE, text)
    try:
        moment = datetime(
            int(date["year"]),
            int(date["month"]),
            int(date["day"]),
            int(date["hour"]),
            int(date["minute"]),
            int(date["second"] or 0),
            int((date["fraction"] or "")[:6].ljust(6, "0")),
            _offset(date) or zone,
        )
        return (moment - _EPOCH).total_seconds()
    except (ValueError, OverflowError) as exc:
        raise InvalidArgument(argument, _TIME_RULE, text) from exc


def _offset(date: re.Match[str]) -> timezone | None:
    """Read the offset of a date, None when it has none."""
    if date["utc"]:
        return UTC
    if not date["sign"]:
        return None
    offset = timedelta(hours=int(date["hours"]), minutes=int(date["minutes"] or 0))
    return timezone(-offset if "-" in date["sign"] else offset)
