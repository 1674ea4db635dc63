"""The files of secrets that the manual names, with secrets that were made for the test."""

from pathlib import Path
from secrets import token_urlsafe

from taskmon.auth import Role
from taskmon.credentials.passwords import hash_password
from taskmon.credentials.tokens import new_token


def with_secrets(block: str, folder: Path) -> str:
    """Return a block of the manual with its files of secrets in a folder, where they are made."""
    contents = {
        "cookie-secret": token_urlsafe(32),
        "client-secret": token_urlsafe(24),
        "users": f"grafana:{hash_password('x')}",
        "token-lines": new_token("grafana", Role.VIEWER)[1],
    }
    for name, content in contents.items():
        (folder / name).write_text(f"{content}\n")
        (folder / name).chmod(0o600)
    return block.replace("file:/etc/taskmon/", f"file:{folder}/")
