"""Logging in with a provider, and out again. Event loop only.

A login ends in a session or in a page with a link; nothing here sends a browser on after an error.
"""

from contextlib import suppress

from ..auth import Role, client_of, printable
from ..errors import LoginFailed, TaskmonError, Unavailable
from ..http import audit
from ..http.base import status_of
from .pages import PageHandler


class LoginCallback(PageHandler):
    path = "/login/callback"
    summary = "Takes back an attempt to log in"
    public = True

    async def get(self) -> None:
        """Take back an attempt to log in: begin a session and lead on, or say what is wrong."""
        await self._finish_login()

    async def _finish_login(self) -> None:
        login = self.login()
        if self.request.method != "GET":
            raise LoginFailed("Only a GET takes an attempt to log in back")
        try:
            done = await login.finish(self.request, self.request.query_arguments)
        except TaskmonError as exc:
            self._note("", status_of(exc), f"{type(exc).__name__}: {exc}")
            raise
        self.add_header("Set-Cookie", done.set_cookie)
        self.add_header("Set-Cookie", login.forget)  # curl heeds only a last one
        self._note(done.user.name, 200, f"{done.identity.issuer} {done.identity.subject}")
        self._send_on(done.next)

    def _send_on(self, url: str) -> None:
        self.clear_header("Content-Type")
        self.set_header("Location", url)
        self.set_status(303)
        self.finish()

    def _note(self, user: str, status: int, detail: str) -> None:
        refusals = self.services.refusals
        refusals.logins["done" if status == 200 else "refused"] += 1
        refusals.sessions["started"] += status == 200
        audit.write(
            request_id=self.request_id,
            user=user,
            method="session",
            client=client_of(self.request),
            action="Login",
            target=self.request.path,
            status=status,
            detail=printable(detail),
        )


class LoginPage(LoginCallback):
    path = "/login"
    summary = "Sends the browser to the provider"

    async def get(self) -> None:
        """Send the browser to the provider; take back an attempt where people are sent here, as to Flower."""
        query = self.request.query_arguments
        if query.keys() & {"code", "state", "error"}:
            await self._finish_login()
            return
        following = query.get("next", [b""])[-1].decode("ascii", "replace")
        begun = await self.login().begin(self.request, following, choose=query.get("account") == [b"choose"])
        self.add_header("Set-Cookie", begun.set_cookie)
        self._send_on(begun.url)


class Logout(PageHandler):
    path = "/logout"
    summary = "Ends the session"
    role = Role.VIEWER
    allowed_when_read_only = True

    async def post(self) -> None:
        """End the session for good, in every copy of it, and say so."""
        login, sessions = self.login(), self.services.sessions
        if sessions is not None:
            sessions.end(self.request)
            with suppress(Unavailable):  # it is ended here, and is written once that is possible
                await sessions.ended.save()
            self.services.refusals.sessions["ended"] += 1
            self.clear_header("Set-Cookie")
            self.add_header("Set-Cookie", sessions.cookie.clear())
        action = f"Log in with {login.provider}"
        self.show("error.html", "You are logged out", message="The session has ended.", link="/login", action=action)
