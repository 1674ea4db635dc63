"""PageHandler: what the pages for people share. No script, one style sheet, everything escaped. Event loop only."""

import base64
import hashlib
from http.client import responses
from pathlib import Path
from typing import Any, Final

from tornado.template import Loader
from tornado.web import HTTPError

from ..credentials.sessions import Sessions
from ..errors import AuthenticationFailed, LoginFailed, PermissionDenied, Unavailable
from ..http.base import ApiHandler
from ..login.addresses import base_path
from ..login.flow import Login

_FOLDER: Final = Path(__file__).parent / "templates"
_STYLE: Final = (_FOLDER / "style.css").read_text(encoding="utf-8")
_STYLE_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_TEMPLATES: Final = Loader(str(_FOLDER), autoescape="xhtml_escape", whitespace="all")
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_TOKENS_ONLY: Final = (
    ". A browser cannot send a token: give it to curl, by -H 'Authorization: Bearer …', or set up passwords "
    "(--basic-auth) or a login (--auth-provider)"
)


class PageHandler(ApiHandler):
    """The base of every page."""

    @property
    def base(self) -> str:
        """The path before every route, as browsers see it."""
        return base_path(self.services.settings)

    def login(self) -> Login:
        """Give the login; raise 404 where nobody logs in with a provider."""
        if self.services.login is None:
            raise HTTPError(404, "Nobody logs in here: no provider is set up (--auth-provider)")
        return self.services.login

    def show(self, template: str, title: str, **values: Any) -> None:
        """Finish with a page."""
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_header("Content-Security-Policy", _POLICY)
        page = _TEMPLATES.load(template).generate(title=title, style=_STYLE, base=self.base, **values)
        self.finish(page)

    def show_error(self, status: int, message: str, error: BaseException | None, more: dict[str, str]) -> None:
        """Answer an error by a page, with a link to go on."""
        login, sessions = self.services.login, self.services.sessions
        title, link, action = responses.get(status, "Error"), "/", "Go to the first page"
        if login is not None and sessions is not None:
            if self.public:
                self.add_header("Set-Cookie", login.forget)
            if isinstance(error, AuthenticationFailed):
                title, link, action = "Log in", "/login", f"Log in with {login.provider}"
                self._clear_session(sessions)
                self._withhold_basic()
            elif isinstance(error, LoginFailed | Unavailable):
                title, link, action = "The login did not work", "/login", "Try again"
            elif isinstance(error, PermissionDenied) and self.public:
                title, link, action = "You cannot come in", "/login?account=choose", "Try another account"
        elif status == 401:
            link = ""
            if self.services.authentication.kinds == {"token"}:
                message += _TOKENS_ONLY
        self.show("error.html", title, message=message + ".", link=link, action=action)

    def _clear_session(self, sessions: Sessions) -> None:
        """Clear a session that is over, so that one may come in otherwise; never one that did not come along.

        Else another site could log people out: its requests bring no cookie, but their answers can take one away.
        """
        if sessions.cookie.came(self.request):
            self.add_header("Set-Cookie", sessions.cookie.clear())

    def _withhold_basic(self) -> None:
        """Keep browsers from asking for a password before the page with its link can be seen."""
        challenges = [one for one in self._headers.get_list("WWW-Authenticate") if not one.startswith("Basic ")]
        self.clear_header("WWW-Authenticate")
        for challenge in challenges:
            self.add_header("WWW-Authenticate", challenge)
