"""What a request carries: the arguments of its query string, and the form or JSON object that is its body."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from tornado.httputil import HTTPServerRequest

from ..errors import InvalidArgument, shown
from ..nesting import MAX_DEPTH, find_repeated_key, is_too_deep
from ..parameters import Parameter

MAX_ARGUMENTS: Final = 100

FORM: Final = "application/x-www-form-urlencoded"

_READ: Final = "json_object"

_decode_json: Final = msgspec.json.Decoder().decode


def read_query(request: HTTPServerRequest) -> dict[str, str]:
    """Give the arguments of the query string, the last one of each name; raises InvalidArgument."""
    return _texts(request.query_arguments)


def read_form(request: HTTPServerRequest) -> dict[str, str]:
    """Give the arguments of a form that is the body, the last one of each name; raises InvalidArgument."""
    return _texts(request.body_arguments)


def read_texts(request: HTTPServerRequest, most: int = MAX_ARGUMENTS) -> dict[str, str]:
    """Return the arguments of the query string and of a form, at most `most` of each, whether they are known or not.

    The form wins. Raises InvalidArgument.
    """
    return _texts(request.query_arguments, most) | _texts(request.body_arguments, most)


def read_given(request: HTTPServerRequest, parameters: Iterable[Parameter], json_only: bool) -> dict[str, Any]:
    """Give the arguments of a changing request: query string, then form or JSON object, of which the latter wins.

    In a JSON object null counts as not given. With `json_only` a form is read as one only where it is no JSON.
    Raises InvalidArgument, for an argument that is not known too: it may be a misspelt one that would matter.
    """
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    texts, body = read_parts(request, json_only)
    refuse_unknown(texts | body, kinds)
    given: dict[str, Any] = {name: kinds[name].from_text(name, text) for name, text in texts.items()}
    for name, value in body.items():
        if value is not None or not kinds[name].in_query:
            given[name] = kinds[name].from_json(name, value)
    return given


def read_parts(request: HTTPServerRequest, json_only: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the texts of the query string and of a form, and the JSON object of the body; raises InvalidArgument."""
    texts = read_query(request)
    if not request.headers.get("Content-Type", "").startswith(FORM):
        return texts, read_object(request)
    if json_only and (b"=" not in request.body or request.body.lstrip()[:1] in (b"{", b"[", b'"')):
        return texts, read_object(request)  # curl calls everything a form
    return texts | read_form(request), {}


def read_object(request: HTTPServerRequest) -> dict[str, Any]:
    """Return the JSON object of the body, an empty one when there is no body; raises InvalidArgument.

    It is read once for each request: the audit log asks for it after the handler.
    """
    if not request.body:
        return {}
    known: dict[str, Any] | None = vars(request).get(_READ)
    if known is None:
        known = vars(request)[_READ] = _read_body(request)
    return known


def _read_body(request: HTTPServerRequest) -> dict[str, Any]:
    try:
        body = _decode_json(request.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgument("The body", f"must be a JSON object ({exc})") from exc
    if not isinstance(body, dict):
        raise InvalidArgument("The body", "must be a JSON object")
    if is_too_deep(request.body, body):
        raise InvalidArgument("The body", f"may be nested {MAX_DEPTH} levels deep at the most")
    if (key := find_repeated_key(request.body)) is not None:
        raise InvalidArgument("The body", f"must not have a key twice, as it has {shown(key)}")
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


def _texts(arguments: Mapping[str, list[bytes]], most: int = MAX_ARGUMENTS) -> dict[str, str]:
    if sum(map(len, arguments.values())) > most:
        raise InvalidArgument("The request", f"may have {most} arguments at the most")
    return {name: decode_text(name, values[-1]) for name, values in arguments.items()}
