"""The route that ends the sessions of a person. Event loop only."""

from typing import Annotated, Final

from msgspec import Meta

from ..auth import Role
from ..errors import CommandRefused, Unavailable
from ..http.answers import Message
from ..http.base import ApiHandler
from ..http.serializers import message_body
from ..parameters import Parameters, matching

_USER: Final = matching(
    r"[^\x00-\x1f]{1,256}", "must be a name, an e-mail address or a subject of 1 to 256 characters"
)


class Person(Parameters):
    """Whose sessions to end."""

    user: Annotated[
        str,
        _USER,
        Meta(description="Whose sessions: the name or e-mail address that taskmon shows, or the provider's subject."),
    ]


class SessionRevoke(ApiHandler):
    path = "/api/session/revoke"
    summary = "Ends all sessions of a person"
    role = Role.ADMIN
    expects_json = True
    parameters = Person
    response_type = Message
    errors = (CommandRefused, Unavailable)

    async def post(self) -> None:
        """End all sessions that a person has begun until now; 503 where that is not known after a restart."""
        user, sessions = self.parse_parameters().user, self.services.sessions
        if sessions is None:
            raise CommandRefused("There are no sessions here: no provider is set up (--auth-provider)")
        sessions.ended.end_all(user)
        await sessions.ended.save()
        self.answer(message_body(f"Ended all sessions of '{user}'"))
