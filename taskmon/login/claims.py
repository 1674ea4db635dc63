"""What a provider's document says of somebody, read strictly. Pure."""

import hmac
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from ..credentials.roles import read_address
from ..errors import LoginFailed

Document = Mapping[str, Any]

_MAX_GROUP_LENGTH: Final = 256
_SUBJECT = re.compile(r"[ -~]{1,255}")


def read_subject(document: Document) -> str:
    """Give the subject, which OpenID Connect bounds to 255 ASCII characters; raise LoginFailed."""
    subject = document.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise LoginFailed("The provider does not say who it is")
    return subject


def read_verified_address(document: Document) -> str | None:
    """Give the e-mail address, lower case, where the same document says that it is verified: true, no less."""
    return read_address(document.get("email")) if document.get("email_verified") is True else None


def has_claim(document: Document, claim: str) -> bool:
    """Tell whether a document has a claim, see `read_groups`."""
    return _find(document, claim) is not None


def read_groups(document: Document, claim: str, wanted: Collection[str]) -> tuple[str, ...]:
    """Give those of the wanted groups that a claim lists; a claim that is one text is one group.

    `claim` is a name, or, where there is no such name, a path with dots: `realm_access.roles`.
    """
    found = _find(document, claim)
    listed = found if isinstance(found, list) else [found]
    names = {name for name in listed if isinstance(name, str) and len(name) <= _MAX_GROUP_LENGTH}
    return tuple(sorted(names.intersection(wanted)))


def check_id_token(claims: Document, client_id: str, nonce: str) -> None:
    """Raise LoginFailed unless this ID token, its signature, issuer and audience being right, is for this attempt."""
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(errors="replace"), nonce.encode()):
        raise LoginFailed("The provider's answer belongs to another attempt to log in")
    audience, party = claims.get("aud"), claims.get("azp")
    if (isinstance(audience, list) and len(audience) > 1 and party is None) or party not in (None, client_id):
        raise LoginFailed("The provider's answer is meant for another application")


def check_hosted_domain(claims: Document, domains: Collection[str]) -> None:
    """Raise LoginFailed unless `hd` is one of these domains, where there are any."""
    if domains and claims.get("hd") not in domains:
        raise LoginFailed("The account belongs to no organisation that may log in")


def _find(document: Document, claim: str) -> object:
    if claim in document:
        return document[claim]
    place: object = document
    for name in claim.split("."):
        place = place.get(name) if isinstance(place, dict) else None
    return place
