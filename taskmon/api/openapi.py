"""The description of the HTTP API. Event loop only."""

from typing import Any

from ..auth import Role
from ..http.base import ApiHandler


class OpenApi(ApiHandler):
    path = "/api/openapi.json"
    summary = "This document"
    role = Role.VIEWER
    response_type = dict[str, Any]

    def get(self) -> None:
        """Answer the OpenAPI 3.1 document of all routes."""
        self.finish(self.services.document.encoded)
