"""The routes declare who may use them, and the documentation names every route, option and metric."""

import re
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules

import pytest
from serving import make_app, repository, serving
from tornado.web import RequestHandler

from taskmon import api, web
from taskmon.api.flower_pages import TasksDataTable
from taskmon.api.monitor import HealthCheck, Ready
from taskmon.app import Taskmon
from taskmon.auth import Role
from taskmon.http.base import ApiHandler, UnknownRoute, part_names
from taskmon.metrics import METRICS
from taskmon.routes import API, PROBES, ROUTES, make_application
from taskmon.settings import OPTIONS, Settings
from taskmon.web.login import LoginCallback, LoginPage, Logout

DOCS = repository() / "docs"
HANDLERS = [handler for _, handler in ROUTES]


def written(pattern: str) -> str:
    """Give a regular expression for a route as the documentation writes it: `<id>` for what differs."""
    return pattern.replace("(.+?)", r"<[a-z_]+>")


@pytest.mark.parametrize("handler", HANDLERS)
def test_every_handler_says_who_may_use_it(handler: type[ApiHandler]) -> None:
    assert issubclass(handler, ApiHandler)
    assert isinstance(handler.role, Role)
    own = handler.__mro__[: handler.__mro__.index(ApiHandler)]
    declared = {name for kind in own for name in ("role", "public") if name in vars(kind)}
    assert len(declared) == 1, "either role or public must stand in the class, or in one that is above it"


@pytest.mark.parametrize("handler", HANDLERS)
def test_no_handler_goes_round_the_pipeline(handler: type[ApiHandler]) -> None:
    for name in (
        "prepare",
        "write_error",
        "initialize",
        "set_default_headers",
        "clear",
        "options",
        "head",
        "_execute",
    ):
        assert getattr(handler, name) is getattr(ApiHandler, name)
    assert handler.summary
    assert handler.get is not RequestHandler.get or handler.post is not RequestHandler.post


def test_only_health_and_the_login_are_public() -> None:
    assert {handler for handler in HANDLERS if handler.public} == {HealthCheck, Ready, LoginPage, LoginCallback}
    assert {"/healthcheck", "/readyz"} == PROBES
    assert not UnknownRoute.public
    assert {handler for handler in HANDLERS if handler.allowed_when_read_only} == {Logout, TasksDataTable}


def test_the_parts_of_a_path_are_the_arguments_of_its_methods() -> None:
    for _, handler in ROUTES:
        for method in handler.methods():
            assert list(signature(getattr(handler, method)).parameters)[1:] == part_names(handler.path), handler


def test_no_path_belongs_to_two_routes() -> None:
    for path, handler in ROUTES:
        example = path.replace("(.+?)", "x").replace("\\", "")
        assert [one for pattern, one in ROUTES if re.fullmatch(pattern, example)] == [handler]


def test_every_file_of_handlers_is_in_the_table() -> None:
    files = {f"{package.__name__}.{name}" for package in (api, web) for _, name, _ in iter_modules(package.__path__)}
    defined = {
        handler
        for name in files
        for handler in vars(import_module(name)).values()
        if isinstance(handler, type) and issubclass(handler, ApiHandler) and "path" in vars(handler)
    }
    assert defined - {ApiHandler} == set(HANDLERS)


def test_there_is_no_other_way_in() -> None:
    application = make_application(Taskmon(Settings(url_prefix="x"), make_app()).services)
    (rules,) = [rule.target.rules for rule in application.default_router.rules if hasattr(rule.target, "rules")]
    assert {rule.target for rule in rules} == set(HANDLERS)
    assert application.settings["default_handler_class"] is UnknownRoute
    assert not {"static_path", "login_url", "cookie_secret", "debug", "autoreload"} & {
        key for key, value in application.settings.items() if value
    }


async def test_every_post_is_refused_when_read_only() -> None:
    changing = [(path, handler) for path, handler in ROUTES if handler.post is not RequestHandler.post]
    assert len(changing) > 15
    async with serving(read_only=True, anonymous_role="admin") as served:
        for path, handler in changing:
            if handler.allowed_when_read_only:
                continue
            target = path.replace("(.+?)", "x")
            for body in (b"", b"{}", b"broken"):
                answer = await served.request("POST", target, {"Content-Type": "application/json"}, body)
                assert (answer.status, "--read-only" in answer.error["message"]) == (403, True), target
        for method in ("PUT", "PATCH", "DELETE"):
            targets = [path.replace("(.+?)", "x").replace("\\", "") for path, _ in API]
            assert {(await served.request(method, target)).status for target in targets} == {405}


def documented(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path, _ in ROUTES])
def test_every_route_is_documented(path: str) -> None:
    assert re.search(rf"(GET|POST) `?{written(path)}`?(?![\w/<])", documented("api.md"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: str(option.name))
def test_every_option_is_documented(option: object) -> None:
    name = OPTIONS[OPTIONS.index(option)].name  # type: ignore[arg-type]
    assert re.search(rf"`{name}`|--{name.replace('_', '-')}\b", documented("configuration.md"))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.name))
def test_every_metric_is_documented(metric: object) -> None:
    name = METRICS[METRICS.index(metric)].full_name()  # type: ignore[arg-type]
    assert f"`{name}`" in documented("metrics.md")
