"""The table of options: `Settings`, frozen, checked when it is made; it shows no secret."""

import math
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Final, Literal

from ..errors import InvalidSetting
from .access import (
    ALLOWED_COMMA,
    CREDENTIAL_COMMA,
    OIDC_CLAIM,
    OIDC_SCOPE,
    TOKEN_RATE,
    complete_publish_rules,
    read_allowed,
    read_issuer,
    read_provider,
    read_publish_rule,
    read_role_rule,
    read_token_line,
    read_user_and_password,
    read_user_role,
)
from .kinds import (
    ADDRESS,
    ASSIGNMENT_COMMA,
    DOTTED_PATH,
    KEY_PATTERN,
    METRICS_PREFIX,
    QUEUE,
    Kind,
    between,
    choice,
    count,
    listing,
    matching,
    name_file,
    read_age,
    read_assignment,
    read_bound,
    read_broker,
    read_float,
    read_history,
    read_host,
    read_level,
    read_name,
    read_origin,
    read_path,
    read_public_url,
    read_queue_name,
    read_socket_path,
    read_text,
    read_url_prefix,
    size,
)
from .listeners import LISTENER_COMMA, Listener, Network, find_too_wide, read_listener, read_network
from .proxies import CLAIM, HEADER, PRESETS, read_algorithm, read_https, read_signer
from .secret_rules import MIN_SECRET, read_client_secret, read_cookie_secret
from .table import SWITCH, checked, describe, shown, to_option

DEFAULT_FILE: Final = "taskmon.toml"

_DECADE = 315_360_000
_SECONDS = between("SECONDS", read_float, 1, _DECADE)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)
_ROLES = choice("ROLE", "viewer", "operator", "admin")
_TEXT = Kind("TEXT", read_text)
_HEADER, _CLAIM = Kind("HEADER", HEADER), Kind("CLAIM", CLAIM)
_SECRET_KEYS = (
    *("*password*", "*passwd*", "*passphrase*", "*passcode*", "passkey", "pass", "*_pass", "pwd", "*_pwd"),
    *("dbpass", "pw", "*_pw", "creds", "*_creds", "accesskey", "otp_code"),
    *("*secret*", "*token", "bearer", "*api_key", "*apikey", "*authorization", "auth", "*_auth", "*credential*"),
    *("*private_key*", "*access_key*", "*account_key*", "*master_key*", "*shared_key*", "*subscription_key*"),
    *("*signing_key*", "*encryption_key*", "*ssh_key*", "session_key", "*connection_string*"),
    *("pin", "*_pin", "pin_code", "pincode", "otp", "*_otp", "cvv", "*_cvv", "cvv2", "cvc", "*_cvc", "security_code"),
    *("dsn", "*_dsn", "jwt", "*_jwt", "cookie", "*_cookie", "cookies", "*_cookies"),
    *("session", "*_session", "*session_id", "*sessionid", "*sessid"),
)
_LEVELS = Kind("LEVEL", read_level)
_METRIC = Kind("NAME", matching(METRICS_PREFIX, "must be letters, digits and _, and begin with no digit"))
_QUEUE = Kind("NAME", matching(QUEUE, "must be 1 to 255 letters, digits and . _ - : @, and not begin with amq."))
_ON = Kind("ADDRESS", matching(ADDRESS, "must be an IP address or a host name; 0.0.0.0 and :: are all"))


_celery, _server, _access, _login, _proxy, _events, _limits, _history, _metrics, _program = (
    partial(describe, section)
    for section in (
        *("Celery", "Server", "Access", "Login", "Proxy", "Events", "Limits", "History", "Metrics", "Program"),
    )
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every option, checked and normalised; raises InvalidSetting. Values may be texts, as from a flag."""

    app: str | None = _celery(
        None, Kind("TEXT", read_text), "Celery app to load, as for celery: proj or proj.celery:app.", short="A"
    )
    broker: str | None = _celery(
        None, Kind("URL", read_broker), "Broker to watch; overrides the app's.", short="b", secret=True
    )
    result_backend: str | None = _celery(
        None, Kind("URL", read_text), "Result backend; overrides the app's.", secret=True
    )
    broker_api: str | None = _celery(
        None,
        Kind("URL", read_text),
        "RabbitMQ's management API: http://guest:guest@host:15672/api/. Counts unacknowledged messages.",
        secret=True,
        flower=True,
    )
    celery_config: Path | None = _celery(  # noqa: RUF009
        None, Kind("PATH", read_path), "File with Celery settings, if there is no app: a Python module or TOML."
    )
    set: tuple[str, ...] = _celery(
        (),
        listing("NAME=VALUE", read_assignment, ASSIGNMENT_COMMA),
        "Celery setting: event_exchange=events, broker_transport_options.master_name=main.",
        secret=True,
    )

    address: str = _server("127.0.0.1", _ON, "Address to listen on; 0.0.0.0 and :: mean all.", flower=True)
    port: int = _server(5555, count(0, 65_535), "Port to listen on; 0 picks a free one.", flower=True, short="p")
    unix_socket: Path | None = _server(  # noqa: RUF009
        None, Kind("PATH", read_socket_path), "Unix socket to listen on instead of a port.", flower=True
    )
    listen: tuple[Listener, ...] = _server(
        (),
        listing("WHERE", read_listener, LISTENER_COMMA),
        "Listener; overrides the three above: 0.0.0.0:5556,auth=token,tls or unix:PATH,auth=proxy.",
    )
    certfile: Path | None = _server(  # noqa: RUF009
        None, Kind("PATH", read_path), "Certificate for HTTPS, in PEM.", flower=True
    )
    keyfile: Path | None = _server(  # noqa: RUF009
        None, Kind("PATH", read_path), "Private key of the certificate, in PEM.", flower=True
    )
    ca_certs: Path | None = _server(  # noqa: RUF009
        None, Kind("PATH", read_path), "Certificate authorities for client certificates, in PEM.", flower=True
    )
    trusted_proxies: tuple[Network, ...] = _server(
        (),
        listing("NETWORK", read_network),
        "Address or network of proxies whose headers are trusted.",
    )
    trust_everyone: bool = _server(
        False, SWITCH, "Allow wide networks in --trusted-proxies: whoever connects from there can claim any user."
    )
    url_prefix: str = _server(
        "", Kind("PATH", read_url_prefix), "Path before every route, such as /taskmon.", flower=True
    )
    public_url: str | None = _server(None, Kind("URL", read_public_url), "URL that users see.")
    max_body: int = _server(1 << 20, size(1024, 1 << 30), "Maximum size of a request body.")
    max_connections: int = _server(1000, count(1, 1_000_000), "Maximum number of open connections.")
    max_connections_per_client: int = _server(
        500, count(1, 1_000_000), "Maximum number of open connections from one address."
    )
    cors_origins: tuple[str, ...] = _server(
        (), listing("ORIGIN", read_origin), "Origin whose pages may call the API: https://dash.example.com."
    )

    basic_auth: tuple[str, ...] = _access(
        (),
        listing("USER:PASSWORD", read_user_and_password, CREDENTIAL_COMMA),
        "User with a password or its hash; an admin by default.",
        secret=True,
        flower=True,
    )
    token: tuple[str, ...] = _access(
        (), listing("LINE", read_token_line), "Token, as printed by `taskmon token`.", secret=True
    )
    token_file: Path | None = _access(  # noqa: RUF009
        None, Kind("PATH", read_path), "Token file, managed by `taskmon token create` and `taskmon token revoke`."
    )
    token_rate_limit: str | None = _access(
        None,
        Kind("RATE", matching(*TOKEN_RATE)),
        "Maximum request rate of each token, such as 600/m; a token's own limit overrides it.",
    )
    htpasswd: Path | None = _access(  # noqa: RUF009
        None,
        Kind("PATH", read_path),
        "File of users and password hashes in htpasswd format: bcrypt, argon2 or scrypt.",
    )
    basic_roles: tuple[str, ...] = _access(
        (),
        listing("USER=ROLE", read_user_role),
        "Role of a user with a password: ann=operator.",
    )
    basic_role: Literal["viewer", "operator", "admin"] = _access(
        "viewer", _ROLES, "Role of users of --htpasswd that --basic-roles does not name."
    )
    anonymous_role: Literal["viewer", "operator", "admin"] | None = _access(
        None, _ROLES, "Role of requests without credentials: viewer, operator or admin."
    )
    roles: tuple[str, ...] = _access(
        (),
        listing("ROLE=RULE", read_role_rule),
        "Role of a group, an address or a domain: admin=group:ops, viewer=domain:example.com.",
    )
    default_role: Literal["viewer", "operator", "admin", "none"] = _access(
        "viewer",
        choice("ROLE", "viewer", "operator", "admin", "none"),
        "Role of users who match no rule of --roles; none refuses them.",
    )
    show_args: Literal["none", "viewer", "operator"] = _access(
        "viewer",
        choice("ROLE", "none", "viewer", "operator"),
        "Lowest role that sees arguments, results and errors of tasks; none: no role.",
    )
    mask_keys: tuple[str, ...] = _access(
        _SECRET_KEYS,
        listing("PATTERN", KEY_PATTERN),
        "Keys whose values are masked in arguments, results and errors; * matches anything.",
    )
    format_task: str | None = _access(
        None,
        Kind("FUNCTION", DOTTED_PATH),
        "Function that changes tasks before they are shown: module:function.",
        flower=True,
    )
    publish_queues: tuple[str, ...] = _access(
        (),
        listing("PATTERN", read_queue_name),
        "Additional queues and exchanges that tasks may be published to; * matches anything.",
    )
    publish_tasks: tuple[str, ...] = _access(
        (),
        listing("ROLE=PATTERN", read_publish_rule),
        "Task names that a role may publish; by default all: operator=proj.*,other.",
    )
    read_only: bool = _access(False, SWITCH, "Refuse every request that would change something.", flower=True)
    allowed_hosts: tuple[str, ...] = _access(
        (), listing("HOST", read_host), "Additional host name that taskmon accepts."
    )
    provider_ca_certs: Path | None = _access(  # noqa: RUF009
        None, Kind("PATH", read_path), "Certificate authorities for identity providers, in PEM."
    )

    auth_provider: Literal["google", "github", "gitlab", "okta", "oidc"] | None = _login(
        None,
        Kind("NAME", read_provider),
        "Identity provider: google, github, gitlab, okta, or oidc for any other.",
        flower=True,
    )
    oidc_issuer: str | None = _login(
        None, Kind("URL", read_issuer), "URL of the provider's issuer.", flower="oauth2_okta_base_url"
    )
    oauth2_key: str | None = _login(None, _TEXT, "Client id from the provider.", flower=True)
    oauth2_secret: str | None = _login(
        None, Kind("TEXT", read_client_secret), "Client secret from the provider.", secret=True, flower=True
    )
    oauth2_redirect_uri: str | None = _login(
        None,
        Kind("URL", read_public_url),
        "Redirect URI; by default /login/callback under --public-url.",
        flower=True,
    )
    auth: tuple[str, ...] = _login(
        (),
        listing("ADDRESS", read_allowed, ALLOWED_COMMA),
        "User who may log in: ann@example.com, or *@example.com for a domain.",
        flower=True,
    )
    oidc_scope: str = _login("openid email profile", Kind("TEXT", matching(*OIDC_SCOPE)), "Scopes to request.")
    oidc_groups_claim: str = _login("groups", Kind("NAME", matching(*OIDC_CLAIM)), "Claim that lists the groups.")
    oidc_hosted_domain: tuple[str, ...] = _login(
        (), listing("DOMAIN", read_host), "Google Workspace domain that accounts must belong to."
    )
    cookie_secret: tuple[str, ...] = _login(
        (),
        listing("TEXT", read_cookie_secret),
        f"Secret of {MIN_SECRET} random bytes that signs sessions; the first signs, all are accepted.",
        secret=True,
        flower=True,
    )

    session_file: Path | None = _login(  # noqa: RUF009
        None,
        Kind("PATH", read_path),
        "File of ended sessions; by default they are in the history.",
    )

    proxy_preset: str | None = _proxy(
        None, choice("NAME", *PRESETS), f"Proxy that authenticates users: {', '.join(PRESETS)}."
    )
    proxy_user_header: str | None = _proxy(None, _HEADER, "Header with the user's name.")
    proxy_email_header: str | None = _proxy(None, _HEADER, "Header with the user's e-mail address.")
    proxy_groups_header: str | None = _proxy(None, _HEADER, "Header with the user's groups.")
    proxy_jwt_header: str | None = _proxy(
        None, _HEADER, "Header with a signed assertion (JWT); overrides the three above."
    )
    proxy_jwt_issuer: str | None = _proxy(None, Kind("TEXT", read_text), "Issuer of the assertion, exactly.")
    proxy_jwt_audience: str | None = _proxy(None, Kind("TEXT", read_text), "Audience of the assertion, exactly.")
    proxy_jwt_algorithms: tuple[str, ...] = _proxy(
        (), listing("NAME", read_algorithm), "Allowed signature algorithm, such as ES256."
    )
    proxy_jwks_url: str | None = _proxy(None, Kind("URL", read_https), "URL of the issuer's keys (JWKS).")
    proxy_jwt_signer: str | None = _proxy(
        None, Kind("ARN", read_signer), "ARN of the AWS load balancer that signs the assertion."
    )
    proxy_user_claim: str | None = _proxy(None, _CLAIM, "Claim with the user's name.")
    proxy_email_claim: str | None = _proxy(None, _CLAIM, "Claim with the e-mail address.")
    proxy_groups_claim: str | None = _proxy(None, _CLAIM, "Claim with the user's groups.")

    enable_events: bool = _events(True, SWITCH, "Enable events on workers.", flower=True)
    inspect_timeout: float = _events(
        1000.0,
        between("MS", read_float, 1, 600_000),
        "Time to wait for replies of workers, in ms.",
        flower=True,
    )
    purge_offline_workers: float = _events(
        3600.0,
        between("SECONDS", read_float, 0, _DECADE),
        "Forget a worker that has been offline this long.",
        flower=True,
    )
    event_queue_ttl: float = _events(3600.0, _SECONDS, "How long events wait in taskmon's RabbitMQ queue.")
    event_queue_expires: float = _events(
        60.0, _SECONDS, "How long taskmon's RabbitMQ queue outlives a lost connection."
    )

    event_queue_max_length: int = _events(
        1_000_000,
        count(1, 1_000_000_000),
        "Maximum number of messages in taskmon's RabbitMQ queue; the oldest are dropped.",
    )
    durable_queue: str | None = _events(None, _QUEUE, "RabbitMQ queue that collects events while taskmon is down.")
    queues: tuple[str, ...] = _events(
        (), listing("NAMES", read_queue_name), "Queues to watch besides those that taskmon finds itself."
    )
    orphan_after: float = _events(
        900.0,
        between("SECONDS", read_float, 0, _DECADE),
        "Check an unfinished task after this long without an event; 0: never.",
    )

    max_tasks: int = _limits(100_000, count(1, 100_000_000), "Maximum number of tasks in memory.", flower=True)
    max_workers: int = _limits(5000, count(1, 1_000_000), "Maximum number of workers in memory.", flower=True)
    max_memory: int | None = _limits(
        None,
        size(64 << 20, 1 << 50),
        "Maximum memory; tasks are evicted to stay within it. Default: half of the machine's or container's.",
    )
    max_text: int = _limits(
        65_536, count(16, 1 << 30), "Maximum length of a text in an event, in characters; longer ones are truncated."
    )
    max_message: int = _limits(
        8 << 20, size(1024, 1 << 30), "Maximum size of a message from the broker; larger ones are rejected."
    )

    history: str | None = _history(
        None,
        Kind("URL", read_history),
        "Database that keeps tasks: sqlite:///taskmon.sqlite3 or postgresql://host/name.",
        secret=True,
    )
    history_max_age: float | None = _history(
        None, Kind("AGE", read_age), "Delete tasks from the history after this long: 30d, 12h."
    )
    history_max_tasks: int | None = _history(
        None, count(1, 10_000_000_000), "Maximum number of tasks in the history; the oldest are deleted."
    )
    history_journal: Path | None = _history(  # noqa: RUF009 - it makes a field
        None,
        Kind("DIRECTORY", read_path),
        "Directory of the journal, for PostgreSQL; that of SQLite is beside its file.",
    )
    cluster_name: str | None = _history(
        None,
        Kind("NAME", read_name),
        "Name of the cluster in the history; by default the broker's address, which may change.",
    )
    monitor_name: str | None = _history(
        None,
        Kind("NAME", read_name),
        "Unique name of this taskmon, by which it finds its journal after a restart.",
    )
    persistent: bool = _history(False, SWITCH, "Keep tasks in the SQLite file of --db.", flower=True)
    db: str = _history(
        "taskmon", Kind("PATH", read_text), "SQLite file of --persistent; .sqlite3 is appended.", flower=True
    )

    metrics_prefix: str = _metrics(
        "taskmon", _METRIC, "Prefix of metric names; use flower for dashboards made for Flower."
    )
    metrics_worker_label: bool = _metrics(True, SWITCH, "Label metrics by worker.")
    metrics_celery_exporter: bool = _metrics(False, SWITCH, "Add the metrics of celery-exporter.")
    task_runtime_metric_buckets: tuple[float, ...] = _metrics(
        _BUCKETS, listing("SECONDS", read_bound), "Upper bounds of the runtime histogram.", flower=True
    )

    conf: Path | None = _program(  # noqa: RUF009
        None, Kind("PATH", read_path), "Configuration file: TOML or a flowerconfig.py; by default taskmon.toml."
    )
    debug: bool = _program(False, SWITCH, "Log every request, and everything else of level debug.", flower=True)
    log_level: Literal["debug", "info", "warning", "error", "critical"] = _program(
        "info", _LEVELS, "Lowest level to log: debug, info, warning, error or critical.", flower="logging", short="l"
    )
    log_format: Literal["text", "json"] = _program(
        "text", choice("text|json", "text", "json"), "Format of log lines."
    )
    log_file: Path | None = _program(  # noqa: RUF009
        None,
        Kind("PATH", read_path),
        "File to log to instead of standard error.",
        flower="log_file_prefix",
        short="f",
    )
    audit_log: str | None = _program(
        None, Kind("FILE|syslog", read_text), "Destination of the audit log: a file, or syslog."
    )
    audit_reads: bool = _program(False, SWITCH, "Also write a line to the audit log for each request that reads.")

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.name, checked(option, getattr(self, option.name)))
        if self.persistent and self.history is None:
            object.__setattr__(self, "history", self._db_url)
        object.__setattr__(self, "publish_tasks", complete_publish_rules(self.publish_tasks))
        bounds = self.task_runtime_metric_buckets
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise InvalidSetting("task_runtime_metric_buckets", "must be numbers, each greater than the one before")
        if bounds[-1] != math.inf:
            object.__setattr__(self, "task_runtime_metric_buckets", (*bounds, math.inf))
        wide = None if self.trust_everyone else find_too_wide(self.trusted_proxies)
        if wide is not None:
            rule = f"must not be as wide as {wide}: who is in there could name any user (--trust-everyone allows it)"
            raise InvalidSetting("trusted_proxies", rule)
        for name, thing in (("basic_auth", "user"), ("token", "token")):
            keys = [entry.partition(":")[0] for entry in getattr(self, name)]
            if len(keys) != len(set(keys)):
                raise InvalidSetting(name, f"must name each {thing} once")

    @property
    def keeps_db(self) -> bool:
        """Whether the history is the file of --persistent."""
        return self.persistent and self.history == self._db_url

    @property
    def _db_url(self) -> str:
        return f"sqlite:///{name_file(self.db)}"

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{o.name}={shown(o, getattr(self, o.name))}' for o in OPTIONS)})"


OPTIONS: Final = tuple(map(to_option, fields(Settings)))
OPTION: Final = {option.name: option for option in OPTIONS}
