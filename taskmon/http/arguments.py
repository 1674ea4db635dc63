"""What a request carries: the arguments of its query string, and the form or JSON object that is its body."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from tornado.httputil import HTTPServerRequest

from ..errors import InvalidArgument, shown
from ..nesting import MAX_DEPTH, find_repeated_key, is_too_deep
from ..parameters import Parameters, find_arguments

MAX_ARGUMENTS: Final = 100

FORM: Final = "application/x-www-form-urlencoded"

_decode_json: Final = msgspec.json.Decoder().decode


def read_query(request: HTTPServerRequest) -> dict[str, str]:
    """Give the arguments of the query string, the last one of each name; raises InvalidArgument."""
    return _texts(request.query_arguments)


def read_texts(request: HTTPServerRequest, most: int = MAX_ARGUMENTS) -> dict[str, str]:
    """Return the arguments of the query string and of a form, at most `most` of each, whether they are known or not.

    The form wins. Raises InvalidArgument.
    """
    return _texts(request.query_arguments, most) | _texts(request.body_arguments, most)


def read_given(request: HTTPServerRequest, parameters: type[Parameters], expects_json: bool) -> dict[str, Any]:
    """Return what a request gives by name: query string, then form or JSON object, of which the latter wins.

    A null that means an argument is not given is left out. A text that cannot be decoded is the InvalidArgument that
    says why; names that the route does not know are kept. Raises InvalidArgument for a body that cannot be read.
    """
    texts, body = read_parts(request, expects_json)
    given: dict[str, Any] = dict(texts)
    for argument in find_arguments(parameters):
        name, decode = argument.name, argument.format.decode
        if decode is not None and name in texts:
            try:
                given[name] = decode(name, texts[name])
            except InvalidArgument as exc:
                given[name] = exc
        if name in body and body[name] is None and argument.format.is_absent(None):
            del body[name]
    return given | body


def read_parts(request: HTTPServerRequest, expects_json: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the texts of the query string and of a form, and the JSON object of the body; raises InvalidArgument.

    With `expects_json` a body that is called a form is one only where it is no JSON.
    """
    texts = read_query(request)
    if not request.headers.get("Content-Type", "").startswith(FORM):
        return texts, read_object(request)
    if expects_json and (b"=" not in request.body or request.body.lstrip()[:1] in (b"{", b"[", b'"')):
        return texts, read_object(request)  # curl calls everything a form
    return texts | _texts(request.body_arguments), {}


def read_object(request: HTTPServerRequest) -> dict[str, Any]:
    """Return the JSON object of the body, an empty one when there is no body; raises InvalidArgument."""
    if not request.body:
        return {}
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
