"""The OpenAPI 3.1 document of the HTTP API, made from the routes and from what their handlers declare. Pure."""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar, Final, Protocol

import msgspec

from ..parameters import ID_SCHEMA, Argument, Parameters, Schema, find_arguments, whole
from .answers import ErrorAnswer
from .serializers import encode

_REFERENCE: Final = "#/components/schemas/{name}"

#: What each status that is an error means, and the headers that come with it.
_ERRORS: Final = {
    400: ("An argument is wrong; the message names it, the rule and the value.", ()),
    401: ("No credentials, or wrong ones.", ("WWW-Authenticate",)),
    403: ("The role is too low, or the request comes from another site, or taskmon is read-only.", ()),
    404: ("What the path or an argument names is not known.", ()),
    408: ("The request did not come to its end in time.", ()),
    409: ("A worker refuses, or what is known of the task does not allow it.", ()),
    413: ("The body is too large.", ()),
    415: ("The body is in parts, or compressed.", ()),
    421: ("The host name is not served here.", ()),
    429: ("Too many failed attempts to log in.", ("Retry-After",)),
    431: ("The headers are too long.", ()),
    503: ("Something that taskmon needs is away, or busy.", ("Retry-After",)),
    504: ("A worker did not answer in time; what was asked for may still happen.", ()),
}
_EVERYWHERE: Final = frozenset({400, 408, 413, 431})
_WITH_CREDENTIALS: Final = frozenset({401, 403, 421, 429, 503})
_OF_POST: Final = frozenset({415})

_HEADERS: Final = {
    "WWW-Authenticate": {"description": "The kinds of credentials that are accepted.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
}
_SECURITY: Final = {
    "basic": {"type": "http", "scheme": "basic"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token that `taskmon token` makes."},
    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-taskmon", "description": "Begun by a login."},
}

#: The parts of paths, by the names that handlers give them.
_PARTS: Final = {
    "task_id": "The id of a task.",
    "task_name": "The name of a task.",
    "hostname": "The hostname of a worker.",
}


class Route(Protocol):
    """What is read of a handler: see `ApiHandler`."""

    path: ClassVar[str]
    summary: ClassVar[str]
    role: ClassVar[Any]
    public: ClassVar[bool]
    parameters: ClassVar[type[Parameters]]
    response_type: ClassVar[Any]
    media_type: ClassVar[str]

    @classmethod
    def methods(cls) -> list[str]: ...
    @classmethod
    def statuses(cls) -> set[int]: ...


class Document:
    """The document of some routes, made when it is first asked for; `encoded` is its JSON."""

    def __init__(self, routes: Iterable[type[Route]], url_prefix: str, version: str) -> None:
        self._routes = list(routes)
        self._url_prefix = url_prefix
        self._version = version

    @cached_property
    def encoded(self) -> bytes:
        """The document as JSON."""
        return encode(self.content)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The document as plain values."""
        types = [ErrorAnswer, *(handler.response_type for handler in self._routes)]
        schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        error, *answers = schemas
        paths: dict[str, Any] = {}
        statuses = sorted({status for handler in self._routes for status in _statuses(handler)})
        for handler, answer in zip(self._routes, answers, strict=True):
            for method in handler.methods():
                paths.setdefault(handler.path, {})[method] = _describe(handler, method, answer)
        return {
            "openapi": "3.1.0",
            "info": {"title": "taskmon", "version": self._version, "summary": "What a Celery cluster does."},
            "servers": [{"url": self._url_prefix or "/"}],
            "security": [{name: []} for name in _SECURITY],
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": {f"Error{status}": _describe_error(status, error) for status in statuses},
                "headers": _HEADERS,
                "securitySchemes": _SECURITY,
            },
        }


def _describe(handler: type[Route], method: str, answer: Schema) -> dict[str, Any]:
    """Describe one method of one route."""
    changes = method == "post"
    parameters = [
        {"name": name, "in": "path", "required": True, "description": _PARTS[name], "schema": ID_SCHEMA}
        for name in re.findall(r"{(\w+)}", handler.path)
    ]
    operation: dict[str, Any] = {
        "operationId": handler.__name__,
        "summary": handler.summary,
        "tags": [handler.__module__.rpartition(".")[2]],
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {handler.media_type: {"schema": answer}}},
            **{str(status): {"$ref": f"#/components/responses/Error{status}"} for status in _statuses(handler)},
        },
    }
    if handler.public:
        operation["security"] = []
    else:
        operation["x-role"] = str(handler.role)
    arguments = find_arguments(handler.parameters)
    if changes and arguments:
        operation["requestBody"] = _describe_body(arguments)
    elif not changes:
        parameters += map(_describe_query, arguments)
    return operation


def _statuses(handler: type[Route]) -> list[int]:
    common = _EVERYWHERE if handler.public else _EVERYWHERE | _WITH_CREDENTIALS
    return sorted(common | handler.statuses() | (_OF_POST if "post" in handler.methods() else frozenset()))


def _describe_query(argument: Argument) -> dict[str, Any]:
    schema = argument.format.schema
    return {
        "name": argument.name,
        "in": "query",
        "required": argument.required,
        "allowEmptyValue": not argument.required,
        "description": argument.description,
        "schema": schema if argument.default is None else {**schema, "default": argument.default},
    }


def _describe_body(arguments: Iterable[Argument]) -> dict[str, Any]:
    """Describe a body: a JSON object or a form."""
    form = [argument for argument in arguments if argument.format.form is not False]
    return {
        "description": "The arguments; null is one that is not given. They may stand in the query string, too.",
        "required": any(argument.required for argument in arguments),
        "content": {
            "application/json": {"schema": _describe_object(arguments, is_json=True)},
            "application/x-www-form-urlencoded": {"schema": _describe_object(form, is_json=False)},
        },
    }


def _describe_object(arguments: Iterable[Argument], is_json: bool) -> Schema:
    excluded = [_describe_pair(one.name, one.excludes) for one in arguments if one.excludes is not None]
    return {
        "type": "object",
        "properties": {argument.name: _describe_property(argument, is_json) for argument in arguments},
        "required": [argument.name for argument in arguments if argument.required],
        "additionalProperties": False,
        **({"not": {"anyOf": excluded}} if excluded else {}),
    }


def _describe_pair(*names: str) -> Schema:
    """Describe an object that has two arguments, neither of them null."""
    return {"required": list(names), "properties": {name: {"not": {"type": "null"}} for name in names}}


def _describe_property(argument: Argument, is_json: bool) -> Schema:
    """Describe a value: JSON may write most of them as texts, too, and what is blank or null is not given."""
    known = argument.format
    schema = known.schema if is_json else known.form or known.schema
    choices = list(schema.get("anyOf", [schema]))
    if is_json and known.text is not None:
        choices.append({"type": "string", "pattern": whole(known.text)})
    if not argument.required and known.absent == "blank":
        choices.append({"type": "string", "pattern": r"^\s*$"})
    if is_json and not argument.required and known.absent != "never":
        choices.append({"type": "null"})
    described: Schema = dict(choices[0]) if len(choices) == 1 else {"anyOf": choices}
    described["description"] = argument.description
    if argument.default is not None:
        described["default"] = argument.default
    return described


def _describe_error(status: int, error: Schema) -> dict[str, Any]:
    when, headers = _ERRORS[status]
    described: dict[str, Any] = {"description": when, "content": {"application/json": {"schema": error}}}
    if headers:
        described["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return described
