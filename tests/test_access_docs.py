"""Each configuration of docs/authentication.md is whole: taskmon starts with it, and proxies' parts can be read."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from secret_samples import with_secrets
from serving import repository
from tls import make_certificates

from taskmon.credentials.factory import build_authenticators
from taskmon.credentials.passwords import hash_password
from taskmon.login.factory import build_login
from taskmon.settings import Settings, load_settings
from taskmon.settings.proxies import PRESETS

TEXT = (repository() / "docs" / "authentication.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [match[2] for match in _BLOCK.finditer(TEXT) if match[1] == language]


def settings_of(block: str, folder: Path) -> Settings:
    """Load a block as a file of options, with files where it names some."""
    (folder / "htpasswd").write_text(f"ann:{hash_password('x')}\n")
    files = make_certificates()
    text = block.replace("/etc/taskmon/tls.pem", str(files.certificate)).replace(
        "/etc/taskmon/tls.key", str(files.key)
    )
    text = with_secrets(text, folder).replace("/etc/taskmon/", f"{folder}/")
    path = folder / "taskmon.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings({"conf": str(path)}, {}, folder).settings


@pytest.mark.parametrize("block", blocks("toml"))
async def test_taskmon_takes_the_configuration(block: str, tmp_path: Path) -> None:
    settings = settings_of(block, tmp_path)
    entrance = build_login(settings)
    authenticators, generated = build_authenticators(settings, entrance.sessions if entrance else None)
    assert generated is None, "it lets nobody in"
    for one in authenticators:
        one.close()
    if entrance is not None and entrance.login is not None:
        entrance.login.close()


def test_every_preset_has_a_configuration_of_four_options_at_most() -> None:
    seen: dict[str, int] = {}
    for block in blocks("toml"):
        options = tomllib.loads(block)
        if "proxy_preset" in options and "listen" not in options:
            ours = options.keys() - {"address", "unix_socket", "roles"}
            seen[options["proxy_preset"]] = min(seen.get(options["proxy_preset"], 9), len(ours))
    assert seen.keys() == PRESETS.keys()
    assert max(seen.values()) <= 4


def test_every_row_of_the_table_leads_to_a_section() -> None:
    rows = re.findall(r"^\| .* \| \[.*\]\(#(.*)\) \|$", TEXT, re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).replace(" ", "-").lower() for title in titles}
    assert len(rows) > 14
    assert set(rows) <= anchors


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configurations_in_yaml_can_be_read(block: str) -> None:
    assert isinstance(yaml.safe_load(block), dict)


def test_traefik_takes_every_header_that_is_believed_out_of_requests() -> None:
    (traefik,) = [yaml.safe_load(block) for block in blocks("yaml") if "forwardAuth" in block]
    listed = traefik["http"]["middlewares"]["taskmon-auth"]["forwardAuth"]["authResponseHeaders"]
    preset = PRESETS["traefik"]
    assert listed == [preset.user, preset.email, preset.groups]


def test_oauth2_proxy_can_be_read() -> None:
    (block,) = blocks("cfg")
    config: dict[str, Any] = tomllib.loads(block)
    assert config["upstreams"] == ["http://127.0.0.1:5555/"]
