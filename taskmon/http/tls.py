"""The files by which a listener speaks HTTPS: read at the start, and again when they change. Event loop only."""

import logging
import ssl
from pathlib import Path
from typing import Final

from ..errors import InvalidSetting

log = logging.getLogger(__name__)

#: What tells that a file has changed: when it was written, its size, and which one it is.
_Stamp = tuple[int, int, int] | None

#: Without a password of its own OpenSSL would ask for one at the terminal.
_NO_PASSWORD: Final = ""


class Tls:
    """A certificate, its key, and the authorities that clients' certificates come from, if they need one.

    `context` is for new connections. Raises InvalidSetting for files that cannot be read.
    """

    def __init__(self, certfile: Path, keyfile: Path, authorities: Path | None) -> None:
        self._certfile, self._keyfile, self._authorities = certfile, keyfile, authorities
        self._stamps = self._stat()
        self.context = self._make()

    def refresh(self, anew: bool = False) -> bool:
        """Read the files again if they have changed, or in any case `anew`; tell whether `context` is a new one.

        What cannot be read, as when only one of the files has been written yet, leaves what there was.
        """
        stamps = self._stat()
        if stamps == self._stamps and not anew:
            return False
        self._stamps = stamps
        try:
            self.context = self._make()
        except InvalidSetting as exc:
            log.warning("The certificate has changed and is not taken up yet: %s", exc)
            return False
        log.info("The certificate of %s is taken up", self._certfile)
        return True

    def _stat(self) -> list[_Stamp]:
        return [_stamp(path) for path in (self._certfile, self._keyfile, self._authorities) if path is not None]

    def _make(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._certfile, self._keyfile, password=_NO_PASSWORD)
        except (OSError, ValueError) as exc:
            raise InvalidSetting("certfile", f"and the key must be readable PEM files ({_reason(exc)})") from exc
        if self._authorities is not None:
            self._demand_certificates(context, self._authorities)
        return context

    def _demand_certificates(self, context: ssl.SSLContext, authorities: Path) -> None:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ValueError) as exc:
            text = f"must be a readable PEM file ({_reason(exc)})"
            raise InvalidSetting("ca_certs", text, str(authorities)) from exc
        context.verify_mode = ssl.CERT_REQUIRED


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _reason(exc: Exception) -> str:
    return str(getattr(exc, "strerror", None) or getattr(exc, "reason", None) or type(exc).__name__)
