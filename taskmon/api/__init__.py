"""The HTTP API: thin handlers that parse, ask and serialise."""
