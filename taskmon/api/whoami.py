"""Who asks. Event loop only."""

from msgspec import UNSET

from ..auth import Role
from ..http.answers import WhoIsIt
from ..http.base import ApiHandler


class WhoAmI(ApiHandler):
    path = "/api/whoami"
    summary = "Who you are, and what you may do"
    role = Role.VIEWER
    scope = "any"
    response_type = WhoIsIt

    def get(self) -> None:
        """Answer who it is, and of a session what stands behind it."""
        user, sessions = self.current_user, self.services.sessions
        session = sessions.find(self.request) if sessions is not None and user.method == "session" else None
        if sessions is None or session is None:
            email, scopes = user.address or UNSET, user.scopes or UNSET
            self.answer(WhoIsIt(user.name, str(user.role), user.method, email=email, scopes=scopes))
            return
        who = session.identity
        self.answer(
            WhoIsIt(
                user.name,
                str(user.role),
                user.method,
                issuer=who.issuer,
                subject=who.subject,
                email=who.address,
                groups=who.groups,
                session_ends=sessions.ends(session),
            )
        )
