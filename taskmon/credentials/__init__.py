"""The kinds of credentials, an authenticator each, and what they share: hashes and throttles."""
