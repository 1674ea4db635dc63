"""The users with a password: read at the start, and again when the file of --htpasswd changes. Event loop only."""

import logging
from collections.abc import Mapping
from typing import Final

from ..errors import InvalidSetting
from ..settings import Settings
from .passwords import Password, read_passwords

logger = logging.getLogger(__name__)

_NO_FILE: Final = ()


class Users:
    """All users with a password, by name; raises InvalidSetting for settings or a file that break a rule."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._version = self._look()
        self.passwords: Mapping[str, Password] = read_passwords(settings)

    @property
    def has_file(self) -> bool:
        """Whether there is a file that may change."""
        return self._settings.htpasswd is not None

    def refresh(self, anew: bool = False) -> bool:
        """Read the file again if it has changed, or in any case `anew`; tell whether `passwords` are others now.

        While it breaks a rule or is not there, who was in it last counts.
        """
        version = self._look()
        if version == self._version and not anew:
            return False
        self._version = version
        try:
            self.passwords = read_passwords(self._settings, again=True)
        except InvalidSetting as exc:
            logger.error("The users of --htpasswd are not read again: %s", exc)
            return False
        logger.info("The users of --htpasswd were read again: %d", len(self.passwords))
        return True

    def _look(self) -> tuple[int, ...]:
        """Give what differs when the file was changed."""
        if self._settings.htpasswd is None:
            return _NO_FILE
        try:
            found = self._settings.htpasswd.stat()
        except OSError:
            return _NO_FILE
        return found.st_mtime_ns, found.st_size, found.st_ino
