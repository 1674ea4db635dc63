"""The options of taskmon: one table, their rules, and where their values come from."""

from .access import ROLE_RULE, SCRYPT_HASH, TOKEN_LINE
from .kinds import format_size, parse_switch
from .listeners import Listener, Network
from .options import DEFAULT_FILE, OPTION, OPTIONS, Settings
from .sources import FLOWER_ONLY, Loaded, UnknownSetting, load_settings
from .table import Option

__all__ = [
    "DEFAULT_FILE",
    "FLOWER_ONLY",
    "OPTION",
    "OPTIONS",
    "ROLE_RULE",
    "SCRYPT_HASH",
    "TOKEN_LINE",
    "Listener",
    "Loaded",
    "Network",
    "Option",
    "Settings",
    "UnknownSetting",
    "format_size",
    "load_settings",
    "parse_switch",
]
