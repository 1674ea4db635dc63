"""Certificates that change while taskmon runs."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from serving import serving
from tls import make_certificates
from waiting import eventually


async def test_a_certificate_that_changes_is_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taskmon.http.tls")
    files = make_certificates()
    certificate, key = tmp_path / "tls.pem", tmp_path / "key.pem"
    certificate.write_bytes(files.certificate.read_bytes())
    key.write_bytes(files.key.read_bytes())
    async with serving(certfile=certificate, keyfile=key) as served:

        async def shown() -> str:
            """Give the certificate that the server shows."""
            client = ssl._create_unverified_context()
            _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=client)
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return ssl.DER_cert_to_PEM_cert(found)

        assert await shown() == certificate.read_text()
        certificate.write_bytes(files.client.read_bytes())  # its key comes later
        await eventually(lambda: "not taken up yet" in caplog.text)
        assert await shown() == files.certificate.read_text()
        key.unlink()
        key.write_bytes(files.client_key.read_bytes())
        await eventually(lambda: "is taken up" in caplog.text)
        assert await shown() == files.client.read_text()
