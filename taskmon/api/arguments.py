"""What a request carries: the arguments of its query string, and the form or JSON object that is its body."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from tornado.httputil import HTTPServerRequest

from ..errors import InvalidArgument

MAX_ARGUMENTS: Final = 100

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"

_decode_json: Final = msgspec.json.Decoder().decode


def read_query(request: HTTPServerRequest) -> dict[str, str]:
    """Give the arguments of the query string, the last one of each name; raises InvalidArgument."""
    return _texts(request.query_arguments)


def read_parameters(request: HTTPServerRequest, known: Collection[str]) -> dict[str, str]:
    """Give the arguments of a changing request, as texts: query string, then form or JSON object.

    Raises InvalidArgument, for an argument that is not known too: it may be a misspelt one that would matter.
    """
    given = read_query(request)
    if request.headers.get("Content-Type", "").startswith(_FORM):
        given |= _texts(request.body_arguments)
    else:
        given |= {name: as_text(name, value) for name, value in read_object(request).items()}
    refuse_unknown(given, known)
    return given


def read_object(request: HTTPServerRequest) -> dict[str, Any]:
    """Give the JSON object of the body, an empty one when there is no body; raises InvalidArgument."""
    if not request.body:
        return {}
    try:
        body = _decode_json(request.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgument("The body", f"must be a JSON object ({exc})") from exc
    if not isinstance(body, dict):
        raise InvalidArgument("The body", "must be a JSON object")
    return body


def refuse_unknown(given: Mapping[str, object], known: Collection[str]) -> None:
    """Raise InvalidArgument for a name that is not known, with the nearest one that is."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = (
                f"; did you mean {near[0]}?" if near else (f"; known are {', '.join(sorted(known))}" if known else "")
            )
            raise InvalidArgument(name[:80], f"is no argument of this route{hint}")


def decode_text(name: str, value: bytes) -> str:
    """Decode an argument or a part of the path; raises InvalidArgument."""
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise InvalidArgument(name, "must be UTF-8") from exc


def _texts(arguments: Mapping[str, list[bytes]]) -> dict[str, str]:
    if len(arguments) > MAX_ARGUMENTS:
        raise InvalidArgument("The request", f"may have {MAX_ARGUMENTS} arguments at the most")
    return {name: decode_text(name, values[-1]) for name, values in arguments.items()}


def as_text(name: str, value: object) -> str:
    """Write a JSON value as it would stand in a query string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidArgument(name, "must be a text, a number or a boolean")
