"""The options of taskmon: one table, their rules, and where their values come from."""

from .access import MAX_NAME, RATE, ROLE_RULE, SCOPE, SCRYPT_HASH, TOKEN_LINE, is_name
from .flower import ALIASES, CELERY_ONLY, CELERY_SHORT, FLOWER_ONLY, INSTEAD
from .flower_file import FLOWER_FILE, FlowerFile, read_flower_file
from .kinds import format_size, is_switch_word, parse_switch, read_age
from .listeners import Listener, Network
from .options import DEFAULT_FILE, OPTION, OPTIONS, Settings
from .secret_rules import is_sample
from .sources import Loaded, UnknownSetting, load_settings
from .table import Option, checked
from .trusted_files import check_directories, check_trusted, is_readable_by_others

__all__ = [
    "ALIASES",
    "CELERY_ONLY",
    "CELERY_SHORT",
    "DEFAULT_FILE",
    "FLOWER_FILE",
    "FLOWER_ONLY",
    "INSTEAD",
    "MAX_NAME",
    "OPTION",
    "OPTIONS",
    "RATE",
    "ROLE_RULE",
    "SCOPE",
    "SCRYPT_HASH",
    "TOKEN_LINE",
    "FlowerFile",
    "Listener",
    "Loaded",
    "Network",
    "Option",
    "Settings",
    "UnknownSetting",
    "check_directories",
    "check_trusted",
    "checked",
    "format_size",
    "is_name",
    "is_readable_by_others",
    "is_sample",
    "is_switch_word",
    "load_settings",
    "parse_switch",
    "read_age",
    "read_flower_file",
]
