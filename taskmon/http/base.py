"""ApiHandler: what happens to every request before and after its handler. Event loop only.

`prepare` decides in this order: host, form of the body, credentials, origin, role. Whatever is raised on purpose
becomes a status and a JSON body by one table.
"""

import logging
import re
from collections.abc import Awaitable
from functools import cached_property, lru_cache
from http.client import responses
from types import TracebackType
from typing import Any, ClassVar, Final, Literal

from msgspec.structs import replace
from tornado.httputil import HTTPHeaders, HTTPInputError
from tornado.web import Finish, HTTPError, RequestHandler, stream_request_body

from .. import request_ids
from ..auth import Role, User
from ..errors import (
    AssertionRefused,
    AuthenticationFailed,
    CommandRefused,
    CrossSite,
    InvalidArgument,
    LoginFailed,
    MalformedCredentials,
    NoCredentials,
    PermissionDenied,
    TaskmonError,
    TooManyRequests,
    Unavailable,
    UnknownTask,
    UnknownTaskName,
    UnknownWorker,
    WorkerTimeout,
    shown,
)
from ..monitor.monitor import Monitor
from ..monitor.query import TaskQuery
from ..parameters import MAX_NAME_LENGTH, Parameters, find_arguments, parse_id, parse_parameters
from ..trusted_proxies import read_address
from . import audit
from .arguments import decode_text, read_given, refuse_unknown
from .headers import allow_origin, answer_preflight, fresh_headers, has_body, is_preflight
from .serializers import encode, error_body
from .services import Services

log = logging.getLogger(__name__)

STATUSES: Final[dict[type[TaskmonError], int]] = {
    InvalidArgument: 400,
    LoginFailed: 400,
    AuthenticationFailed: 401,
    PermissionDenied: 403,
    UnknownTask: 404,
    UnknownTaskName: 404,
    UnknownWorker: 404,
    CommandRefused: 409,
    TooManyRequests: 429,
    Unavailable: 503,
    WorkerTimeout: 504,
}

#: What a refusal is counted as.
REFUSED: Final[dict[type[TaskmonError], str]] = {
    NoCredentials: "missing",
    MalformedCredentials: "malformed",
    AssertionRefused: "assertion",
    AuthenticationFailed: "credentials",
    CrossSite: "cross_site",
    PermissionDenied: "forbidden",
    TooManyRequests: "throttled",
}

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_NOBODY: Final = User("", Role.VIEWER, "none")


#: What the scopes of a token must allow.
Scope = Literal["read", "metrics", "publish", "any"]


@stream_request_body
class ApiHandler(RequestHandler):
    """The base of every handler; `role` is what a user must have at least, `public` the exception to needing any.

    `scope` is what a token with scopes needs instead of a role: no scope allows a change but to publish.
    A `probe` answers under any host name, too; a POST is `allowed_when_read_only` where it changes nothing but
    for who sends it.
    A route is a handler with a `path`, whose parts in braces are the arguments of `get` and `post`, and a `summary`.
    The rest says what it takes and answers, for the OpenAPI document too: its parameters, the type of a right
    answer, and the errors that are not those of every route. With `expects_json` JSON is read even if it is called a
    form, as curl does.
    """

    path: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    role: ClassVar[Role] = Role.VIEWER
    public: ClassVar[bool] = False
    probe: ClassVar[bool] = False
    allowed_when_read_only: ClassVar[bool] = False
    scope: ClassVar[Scope] = "read"
    parameters: ClassVar[type[Parameters]] = Parameters
    expects_json: ClassVar[bool] = False
    response_type: ClassVar[Any] = None
    media_type: ClassVar[str] = "application/json"
    errors: ClassVar[tuple[type[TaskmonError], ...]] = ()
    current_user: User
    request_id = ""
    _may_read = False

    def initialize(self, services: Services) -> None:
        """Take the services; Tornado calls this instead of a constructor."""
        self.services = services
        #: More fields for the line of the audit log: the ids of the tasks that a request has made or changed.
        self.audited: dict[str, Any] = {}
        if self.request.method not in self.SUPPORTED_METHODS:
            # Tornado would answer 405 before credentials are asked for; no route has PATCH, which it does after.
            self.request.method = "PATCH"
        if services.settings.cors_origins:
            self._may_read = allow_origin(self.request, self._headers, services.settings.cors_origins)
        self._chunks: list[bytes] = []
        self._deferred: User | None = None
        if self.request.method == "POST":
            self.post = self._post_with_body

    @property
    def monitor(self) -> Monitor:
        """The monitor of the cluster that the request is about."""
        return self.services.monitors[0]

    def clear(self) -> None:
        """Begin the answer anew: the headers of every answer, no body, 200."""
        if not self.request_id:
            trusted = self.request.connection.context.trusted  # type: ignore[union-attr]
            given = self.request.headers.get_list(request_ids.HEADER) if trusted else ()
            self.request_id = request_ids.take_id(given)
            request_ids.current.set(self.request_id)
        self._headers = fresh_headers(self.application.settings["standing_headers"], self.request_id)
        self._write_buffer: list[bytes] = []
        self._status_code = 200
        self._reason = "OK"

    def compute_etag(self) -> None:
        """Make no ETag: nothing here may be stored, so nothing is asked for again by its tag."""

    def prepare(self) -> Awaitable[None] | None:
        """Let the request pass or raise; an awaitable only while a password is being hashed."""
        request, services = self.request, self.services
        if request.connection.context.trusted:  # type: ignore[union-attr]
            request.remote_ip = services.peers.client(
                request.remote_ip or "", request.headers.get_list("X-Forwarded-For")
            )
        if not self.probe:
            self._check_host()
        if self.public:
            if has_body(request.headers):
                raise HTTPError(413, "This route takes no body") if request.method in _SAFE else HTTPError(405)
            if request.method not in _SAFE:
                self._check_origin(_NOBODY)
            return None
        if self._may_read and is_preflight(request):
            answer_preflight(self._headers)
            self._finish_empty()
            self.finish()
            return None
        if request.method == "POST" and _is_refused_form(request.headers):
            raise HTTPError(415, "The body must be a JSON object or a form, neither in parts nor compressed")
        user = services.authentication.authenticate(request)
        if isinstance(user, User):
            self._accept(user)
            return None
        return self._accept_later(user)

    async def _accept_later(self, user: Awaitable[User]) -> None:
        self._accept(await user)

    def _accept(self, user: User) -> None:
        """Take a body of somebody with credentials before anything else is decided: the audit log has it."""
        if user.method != "anonymous":
            self.request.connection.context.authenticated = True  # type: ignore[union-attr]
        if self.request.method == "POST" and has_body(self.request.headers):
            self._deferred = user
        else:
            self._admit(user)

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body, which comes once `prepare` has let the request pass."""
        if self.request.method == "POST":
            self._chunks.append(chunk)

    def _post_with_body(self, *args: str) -> Awaitable[None] | None:
        """Read the body that has come, then go on as if it had come with the head."""
        self.request.body = b"".join(self._chunks)
        self._chunks.clear()
        if not _is_refused_form(self.request.headers):
            try:
                self.request._parse_body()
            except HTTPInputError as exc:
                raise HTTPError(400, f"Invalid body: {exc}") from exc
        if self._deferred is not None:
            self._admit(self._deferred)
        return type(self).post(self, *args)

    def _admit(self, user: User) -> None:
        self.current_user = user
        if user.set_cookie is not None:
            self.add_header("Set-Cookie", user.set_cookie)
        if self.request.method not in _SAFE:
            self._check_origin(user)
        if user.scopes:
            self._check_scopes(user)
        elif user.role < self.role:
            raise PermissionDenied(f"This needs the role {self.role}, and {user.name} is {user.role}")
        if self.request.method == "POST" and self.services.settings.read_only and not self.allowed_when_read_only:
            raise PermissionDenied("taskmon is read-only (--read-only)")
        for part in self.path_args:
            self._check_part(part)

    def _check_scopes(self, user: User) -> None:
        """Raise PermissionDenied for what a token's scopes do not allow; of changes they allow publishing only."""
        changes = self.request.method not in _SAFE and not self.allowed_when_read_only
        allowed = {
            "read": user.may_read() and not changes,
            "metrics": user.may_scrape() and not changes,
            "publish": changes and bool(self.path_args) and user.may_publish(self.path_args[0]),
            "any": True,
        }[self.scope]
        if not allowed:
            raise PermissionDenied(f"The scopes of the token {user.name} do not allow this: {', '.join(user.scopes)}")

    def _check_part(self, part: str) -> None:
        """Refuse a part of the path that can be no id and no name; raises InvalidArgument, or what is 404 here.

        No task, name or worker has a NUL, so where an unknown one is 404, so is one with a NUL.
        """
        if not part.isascii():
            decode_text("The path", part.encode(errors="surrogateescape"))
        if "\0" in part and UnknownTask in self.errors:
            raise UnknownTask(part, "impossible: no id has a NUL character")
        for unknown in (UnknownTaskName, UnknownWorker):
            if "\0" in part and unknown in self.errors:
                raise unknown(part)
        parse_id("The last part of the path", part)

    def _check_origin(self, user: User) -> None:
        """Refuse a change that a page of another site has a browser make, with credentials that it adds by itself.

        A token is never added by a browser; where a cookie came along, it may be the cookie that counts.
        """
        if user.method == "token" and "Cookie" not in self.request.headers:
            return
        error = self._check_cross_origin(self.check_trusted_origin)
        if error is not None:
            raise CrossSite(f"This comes from another site: {error}")

    def check_trusted_origin(self, origin: str) -> bool:
        """Tell whether an origin is our own: behind a proxy, Host need not be what the browser knows."""
        return origin == self.services.origin

    def on_finish(self) -> None:
        """Leave a line in the audit log for a request that would change something, or for all with --audit-reads."""
        if self.request.method not in _SAFE or (self.services.settings.audit_reads and not self.public):
            self._audit(self.get_status())

    def audit_intent(self, **more: Any) -> None:
        """Leave a line in the audit log before what cannot be undone; `on_finish` says later what came of it."""
        self._audit(None, **more)

    def _audit(self, status: int | None, **added: Any) -> None:
        user = getattr(self, "current_user", None)
        more: dict[str, Any] = {}
        if user is not None:
            more = {
                "role": str(user.role),
                **self._audit_path(),
                "parameters": self._audit_parameters(),
                **self.audited,
                **added,
            }
            if user.credential:
                more["credential"] = user.credential
            if user.address:
                more["address"] = user.address
        user = user or _NOBODY
        context: Any = self.request.connection.context  # type: ignore[union-attr]
        if context.trusted:
            more["proxy"] = context.remote_ip
        audit.write(
            request_id=self.request_id,
            user=user.name,
            method=user.method,
            client=self.request.remote_ip or "",
            action=type(self).__name__,
            target=self.services.showing.masker.text(self.request.path) or "",
            status=status,
            **more,
        )

    def _audit_parameters(self) -> dict[str, Any]:
        """Return what the request gives of the route's parameters; nothing where the body cannot be read.

        A name that the route does not know may be a secret: it is left out.
        """
        try:
            given = self.given
        except InvalidArgument:
            return {}
        known = (argument.name for argument in find_arguments(self.parameters) if argument.name in given)
        return {name: audit.show(name, given[name], self.services.showing) for name in known}

    def _audit_path(self) -> dict[str, str]:
        """Return the parts of the path of a changing request, by name."""
        names = part_names(self.path) if "post" in self.methods() else ()
        return {name: part[:MAX_NAME_LENGTH] for name, part in zip(names, self.path_args, strict=False)}

    def _check_host(self) -> None:
        """Refuse a host name that is not ours: a page elsewhere could have made it point here."""
        host = self.request.host_name.lower()
        if host not in self.services.hosts and not is_address(host):
            raise HTTPError(421, f"The host name {shown(host)} is not served here: add it to --allowed-hosts")

    def head(self, *args: str) -> Awaitable[None] | None:
        """Answer as GET would, without the body."""
        return self.get(*args)

    def options(self, *args: str) -> None:
        """Tell the methods of this route."""
        self.set_header("Allow", self._allowed())
        self._finish_empty()

    def _finish_empty(self) -> None:
        self.clear_header("Content-Type")
        self.set_status(204)

    @cached_property
    def given(self) -> dict[str, Any]:
        """The values of the request by name, as they are parsed and as the audit log has them."""
        return read_given(self.request, self.parameters, self.expects_json)

    def parse_parameters(self) -> Any:
        """Return the route's `parameters`; raises InvalidArgument.

        An argument that the route does not take is refused where it could matter: in a changing request.
        """
        if self.request.method == "POST":
            refuse_unknown(self.given, [argument.name for argument in find_arguments(self.parameters)])
        return parse_parameters(self.parameters, self.given, self.monitor.zone)

    def restrict(self, query: TaskQuery) -> TaskQuery:
        """Return a query whose search looks only at what the user may see: every query goes through here."""
        if query.search is None:
            return query
        return replace(query, search=self.services.showing.restrict(query.search, self.current_user.role))

    def answer(self, body: Any) -> None:
        """Finish with a JSON body."""
        self.finish(encode(body))

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a part of the path; one that is not UTF-8 is refused later, where it is known who asks."""
        return value.decode(errors="surrogateescape")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error: what was raised on purpose says why, anything else only its name."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if self.services.settings.cors_origins:
            allow_origin(self.request, self._headers, self.services.settings.cors_origins)
        more: dict[str, str] = {}
        message = responses.get(status_code, "Error")
        self._count_refusal(error)
        if isinstance(error, TaskmonError):
            status_code = status_of(error)
            self.set_status(status_code)
            user = getattr(self, "current_user", None)
            message = self.services.showing.error(error, None if user is None else user.role)
            more = self._explain(error)
        elif isinstance(error, HTTPError):
            message = error.log_message or error.reason or message
            if status_code == 405:
                self.set_header("Allow", self._allowed())
        self.show_error(status_code, message, error, more)

    def _count_refusal(self, error: BaseException | None) -> None:
        """Count who is refused, and why; the log has a line a minute."""
        reason = next((reason for kind, reason in REFUSED.items() if isinstance(error, kind)), None)
        if isinstance(error, HTTPError) and error.status_code == 421:
            reason = "host"
        if reason is not None:
            text = error.log_message if isinstance(error, HTTPError) else str(error)
            self.services.refusals.note(reason, text or "", self.request.remote_ip or "")

    def show_error(self, status: int, message: str, error: BaseException | None, more: dict[str, str]) -> None:
        """Finish with the error as JSON; pages say it otherwise."""
        self.finish(encode(error_body(status, message, **more)))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what nobody raised on purpose, with its traceback, and nothing else."""
        if not isinstance(value, TaskmonError | HTTPError | Finish):
            log.error("%s %.200r failed", self.request.method, self.request.path, exc_info=(typ, value, tb))  # type: ignore[arg-type]

    def _explain(self, error: TaskmonError) -> dict[str, str]:
        """Set the headers that belong to an error; give what its body says besides the message."""
        if isinstance(error, AuthenticationFailed):
            for challenge in self.services.authentication.challenges:
                self.add_header("WWW-Authenticate", challenge)
        if isinstance(error, TooManyRequests | Unavailable):
            self.set_header("Retry-After", str(error.retry_after))
        if isinstance(error, UnknownTask):
            return {"reason": error.reason}
        if isinstance(error, WorkerTimeout):
            return error.details
        return {}

    def _allowed(self) -> str:
        methods = self.methods()
        own = (["GET", "HEAD"] if "get" in methods else []) + (["POST"] if "post" in methods else [])
        return ", ".join([*own, "OPTIONS"])

    @classmethod
    def methods(cls) -> list[str]:
        """List the methods of this route: get, post."""
        return [name for name in ("get", "post") if getattr(cls, name) is not getattr(RequestHandler, name)]

    @classmethod
    def statuses(cls) -> set[int]:
        """Give the statuses of the errors that this route may answer, but for those of every route."""
        return {STATUSES[error] for error in cls.errors}


def part_names(path: str) -> list[str]:
    """Return the names of the parts of a path that differ: `task_id` of `/api/task/info/{task_id}`."""
    return re.findall(r"{(\w+)}", path)


class UnknownRoute(ApiHandler):
    """Any path that is no route: 404, and 401 first, so that strangers cannot tell routes apart."""

    def _admit(self, user: User) -> None:
        super()._admit(user)
        raise HTTPError(404, "There is no such route")


def status_of(error: TaskmonError) -> int:
    """Give the status that an error becomes."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Tell whether a host is an IP address: those are nobody's to point elsewhere."""
    return read_address(host.strip("[]")) is not None


def _is_refused_form(headers: HTTPHeaders) -> bool:
    """Tell whether a body comes compressed, or in parts: nothing here needs either, and both can be bombs."""
    return "Content-Encoding" in headers or headers.get("Content-Type", "").lower().startswith("multipart/")
