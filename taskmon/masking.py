"""What must not be seen: passwords in URLs. Pure."""

import re

_URL_PASSWORD = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,30}://(?::|[^\s:/?#@]{1,256}:(?!\d{1,5}[/?#])))(?:(?!://)\S)*@"
)
_QUERY_PASSWORD = re.compile(r"(?i)([?&][a-z_-]*(?:password|passwd|secret|token|api_?key)=)[^&\s'\"]+")


def mask_passwords(text: str) -> str:
    """Put *** for the password of every URL in a text, rather for too much than for too little."""
    if "://" not in text:
        return text
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", text))
