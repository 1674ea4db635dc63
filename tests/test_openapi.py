"""The OpenAPI document is valid, says of every route what its handler declares, and nothing else."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import serving

from taskmon import __version__
from taskmon.auth import Role
from taskmon.http.answers import ErrorAnswer
from taskmon.http.base import STATUSES, ApiHandler
from taskmon.http.openapi import Document
from taskmon.parameters import Argument, find_arguments
from taskmon.routes import API, PROBES

HANDLERS = [handler for _, handler in API]
DOCUMENT: dict[str, Any] = json.loads(Document(HANDLERS, "", __version__).encoded)

#: Each method of each route: the route as the document writes it, the method, the handler.
OPERATIONS = [
    (re.sub(r"\(.+?\?\)", "{}", pattern).replace("\\", ""), method, handler)
    for pattern, handler in API
    for method in handler.methods()
]
EVERY = pytest.mark.parametrize(("path", "method", "handler"), OPERATIONS, ids=[h.__name__ for _, _, h in OPERATIONS])


def find(path: str, method: str) -> dict[str, Any]:
    """Give an operation of the document, whatever it calls the parts of the path."""
    (found,) = [item for name, item in DOCUMENT["paths"].items() if re.sub(r"{\w+}", "{}", name) == path]
    operation: dict[str, Any] = found[method]
    return operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Walk through all objects."""
    if isinstance(value, dict):
        yield value
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(member)


def test_the_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_it_has_every_route_and_method_and_no_other() -> None:
    written = {(re.sub(r"{\w+}", "{}", path), method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert written == {(path, method) for path, method, _ in OPERATIONS}
    assert len({find(path, method)["operationId"] for path, method, _ in OPERATIONS}) == len(OPERATIONS)


@EVERY
def test_every_handler_declares_what_it_answers(path: str, method: str, handler: type[ApiHandler]) -> None:
    assert handler.response_type is not None, "response_type says what a right answer is"
    assert set(handler.errors) <= set(STATUSES)
    (content,) = find(path, method)["responses"]["200"]["content"].items()
    assert content[0] == handler.media_type
    assert content[1]["schema"]


@EVERY
def test_it_has_every_argument_and_no_other(path: str, method: str, handler: type[ApiHandler]) -> None:
    operation, arguments = find(path, method), find_arguments(handler.parameters)
    parts = [one for one in operation["parameters"] if one["in"] == "path"]
    assert len(parts) == path.count("{}")
    assert all(one["required"] and one["description"] for one in parts)
    query = {one["name"]: one for one in operation["parameters"] if one["in"] == "query"}
    assert len(parts) + len(query) == len(operation["parameters"])
    if method == "get":
        assert set(query) == {one.name for one in arguments}
        for one in arguments:
            assert one.format.decode is None
            check(one, query[one.name], query[one.name]["schema"])
            assert query[one.name]["required"] is one.required
        assert "requestBody" not in operation
        return
    assert not query
    body = operation.get("requestBody", {"content": {}})["content"]
    assert set(body) == ({"application/json", FORM} if arguments else set())
    for media_type, content in body.items():
        takes = [one for one in arguments if media_type != FORM or one.format.form is not False]
        schema = content["schema"]
        assert set(schema["properties"]) == {one.name for one in takes}
        assert schema["required"] == [one.name for one in takes if one.required]
        assert schema["additionalProperties"] is False
        for one in takes:
            check(one, schema["properties"][one.name], schema["properties"][one.name])


FORM = "application/x-www-form-urlencoded"


def test_a_form_that_publishes_has_json_in_texts_and_any_word_for_a_boolean() -> None:
    content = find("/api/task/send-task/{}", "post")["requestBody"]["content"]
    form, json_object = (content[kind]["schema"]["properties"] for kind in (FORM, "application/json"))
    assert (form["args"]["type"], form["args"]["contentMediaType"]) == ("string", "application/json")
    assert json_object["args"]["type"] == "array"
    assert not Draft202012Validator(json_object["retry"]).is_valid("yes")
    words = Draft202012Validator(form["retry"])
    assert [words.is_valid(value) for value in (True, "yes", "0", 0, "perhaps")] == [True, True, True, True, False]


def check(argument: Argument, described: dict[str, Any], schema: dict[str, Any]) -> None:
    """Compare an argument with its description."""
    assert described["description"] == argument.description
    assert schema.get("default") == argument.default
    assert len(argument.description) > 5


@EVERY
def test_it_says_who_may_ask(path: str, method: str, handler: type[ApiHandler]) -> None:
    operation = find(path, method)
    if handler.public:
        assert (operation["security"], "x-role" in operation) == ([], False)
    else:
        assert "security" not in operation
        assert Role.parse(operation["x-role"]) == handler.role
    assert DOCUMENT["security"] == [{"basic": []}, {"bearer": []}, {"session": []}]
    assert DOCUMENT["components"]["securitySchemes"].keys() == {"basic", "bearer", "session"}


@EVERY
def test_it_says_which_errors_there_are(path: str, method: str, handler: type[ApiHandler]) -> None:
    answers = {int(status) for status in find(path, method)["responses"]} - {200}
    common = {400, 408, 413, 431} | (set() if handler.public else {401, 403, 421, 429, 503})
    own = {STATUSES[error] for error in handler.errors} | ({415} if method == "post" else set())
    assert answers == common | own


@EVERY
def test_it_has_the_summary_of_the_handler(path: str, method: str, handler: type[ApiHandler]) -> None:
    assert find(path, method)["summary"] == handler.summary
    assert re.fullmatch(r"[A-Z].+[^.]", handler.summary)


def test_every_error_has_the_same_shape() -> None:
    (schema,) = {
        json.dumps(answer["content"]["application/json"]["schema"])
        for answer in DOCUMENT["components"]["responses"].values()
    }
    assert json.loads(schema) == {"$ref": "#/components/schemas/ErrorAnswer"}
    error = msgspec.json.schema_components([ErrorAnswer], ref_template="#/components/schemas/{name}")[1]
    assert DOCUMENT["components"]["schemas"].items() >= error.items()
    headers = {s: list(answer.get("headers", ())) for s, answer in DOCUMENT["components"]["responses"].items()}
    assert headers["Error401"] == ["WWW-Authenticate"]
    assert headers["Error429"] == headers["Error503"] == ["Retry-After"]


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    references = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    components = DOCUMENT["components"]
    kinds = ("schemas", "headers", "responses")
    there = {f"#/components/{kind}/{name}" for kind in kinds for name in components[kind]}
    assert references == there


def test_the_prefix_is_that_of_the_server() -> None:
    assert DOCUMENT["servers"] == [{"url": "/"}]
    assert Document(HANDLERS, "/mon", "1").content["servers"] == [{"url": "/mon"}]


async def test_it_is_served() -> None:
    async with serving(url_prefix="mon") as served:
        answer = await served.get("/mon/api/openapi.json")
        assert answer.status == 200
        assert answer.json() == DOCUMENT | {"servers": [{"url": "/mon"}]}
        assert (await served.get("/mon/api/openapi.json", anonymous=True)).status == 401
        assert (await served.get("/mon/api/openapi_json")).status == 404
        assert served.taskmon.services.document.encoded is served.taskmon.services.document.encoded


async def test_errors_that_no_route_declares_are_described() -> None:
    """What every route may answer is what the pipeline refuses before it."""
    async with serving() as served:
        for headers, status in (({"Host": "elsewhere.example"}, 421), ({"Authorization": "Basic x"}, 401)):
            answer = await served.get("/api/tasks", headers)
            assert answer.status == status
            assert str(status) in find("/api/tasks", "get")["responses"]
            msgspec.json.decode(answer.body, type=ErrorAnswer)


def test_probes_are_public() -> None:
    assert {path for path, _, handler in OPERATIONS if handler.public} == PROBES
