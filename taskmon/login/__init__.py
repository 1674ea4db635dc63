"""Logging in with an identity provider: the code flow of OAuth 2, with OpenID Connect or GitHub behind it."""
