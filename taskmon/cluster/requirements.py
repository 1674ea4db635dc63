"""Whether the configuration of a Celery app can be used at all: asked once, at the start, without connecting."""

from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Final

from celery import Celery
from celery.app.backends import BACKEND_ALIASES, by_url
from kombu.connection import Connection
from kombu.serialization import prepare_accept_content, registry
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls
from kombu.utils.url import parse_url

from .connections import say_why

#: What kombu's transports import, and what brings it. Some only notice that it is missing when they connect.
_PACKAGES: Final = {
    **dict.fromkeys(("redis", "rediss", "sentinel"), (("redis", "packaging"), "celery-taskmon[redis]")),
    "sqs": (("boto3",), "kombu[sqs]"),
    "mongodb": (("pymongo",), "kombu[mongodb]"),
    "zookeeper": (("kazoo",), "kombu[zookeeper]"),
    "consul": (("consul",), "kombu[consul]"),
    "etcd": (("etcd",), "python-etcd"),
    "slmq": (("softlayer_messaging",), "kombu[slmq]"),
    "azurestoragequeues": (("azure.storage.queue", "azure.identity"), "kombu[azurestoragequeues]"),
    "azureservicebus": (("azure.servicebus", "azure.identity"), "kombu[azureservicebus]"),
    "pyro": (("Pyro4",), "kombu[pyro]"),
    "qpid": (("qpid", "qpidtoollibs"), "kombu[qpid]"),
    **dict.fromkeys(("kafka", "confluentkafka"), (("confluent_kafka",), "kombu[confluentkafka]")),
    "gcpubsub": (("google.cloud.pubsub_v1", "google.cloud.monitoring_v3"), "kombu[gcpubsub]"),
    "pgmq": (("psycopg", "pgmq"), "kombu[pgmq]"),
    "librabbitmq": (("librabbitmq",), "kombu[librabbitmq]"),
}
_BACKEND_PACKAGES: Final = {
    "celery.backends.redis": (("redis",), "celery-taskmon[redis]"),
    "celery.backends.mongodb": (("pymongo",), "celery[mongodb]"),
    "celery.backends.elasticsearch": (("elasticsearch",), "celery[elasticsearch]"),
    "celery.backends.cassandra": (("cassandra",), "celery[cassandra]"),
    "celery.backends.dynamodb": (("boto3",), "celery[dynamodb]"),
    "celery.backends.s3": (("boto3",), "celery[s3]"),
    "celery.backends.consul": (("consul",), "celery[consul]"),
    "celery.backends.azureblockblob": (("azure.storage.blob",), "celery[azureblockblob]"),
    "celery.backends.arangodb": (("pyArango",), "celery[arangodb]"),
    "celery.backends.gcs": (("google.cloud.storage",), "celery[gcs]"),
}


def has_broker(celery_app: Celery) -> bool:
    """Whether an app says which broker it uses; Celery would guess one on this machine."""
    conf = celery_app.conf
    return any((conf.broker_read_url, conf.broker_write_url, conf.broker_transport))


def find_broker_fault(celery_app: Celery) -> str | None:
    """Return why the broker that an app names cannot be used, whatever answers there; None where it can."""
    urls = [str(url) for url in (celery_app.conf.broker_read_url, celery_app.conf.broker_write_url) if url]
    for scheme in dict.fromkeys(_scheme(url) for urls_of_one in urls for url in urls_of_one.split(";")):
        fault = _lacking_for(_PACKAGES.get(scheme.lower()))
        if fault is not None:
            return fault
    for connect in (celery_app.connection_for_read, celery_app.connection_for_write):
        try:
            connection: Connection = connect()
        except KeyError:  # of a transport, or of an option in the URL
            scheme = _scheme(_url(celery_app))
            return "its URL cannot be read" if scheme in TRANSPORT_ALIASES else _unknown_transport(scheme)
        except ImportError as exc:
            return _missing(_scheme(_url(celery_app)), exc)
        except Exception:  # it quotes what it takes for a port: a part of the password, where that holds a slash
            return "its URL cannot be read"
        fault = next(_transport_faults(connection), None)
        if fault is not None:
            return fault
    return None


def find_backend_fault(celery_app: Celery) -> str | None:
    """Return why the result backend that an app names cannot be used, whatever answers there; None where it can."""
    configured = celery_app.backend_cls or celery_app.conf.result_backend
    scheme = _scheme(str(configured))
    module = str(BACKEND_ALIASES.get(scheme, "")).partition(":")[0]
    fault = _lacking_for(_BACKEND_PACKAGES.get(module))
    if fault is not None:
        return fault
    try:
        by_url(configured, celery_app.loader)
    except Exception as exc:  # it imports what the configuration names
        if scheme in BACKEND_ALIASES or "." in scheme:
            return say_why(exc)
        return f"Celery has no result backend {_or_nearest(scheme, list(BACKEND_ALIASES))}"
    return None


def find_setting_fault(celery_app: Celery) -> str | None:
    """Return which setting of Celery has a value that nothing works with; None where all is well."""
    conf = celery_app.conf
    for name in ("event_serializer", "task_serializer", "result_serializer"):
        value = conf[name]
        if value not in registry.name_to_type:
            return f"{name} names no serializer of kombu: {_or_nearest(str(value), list(registry.name_to_type))}"
    try:
        prepare_accept_content(conf.accept_content)
    except Exception:  # whatever was put there
        return f"accept_content must list serializers of kombu: {', '.join(sorted(registry.name_to_type))}"
    try:
        _ = celery_app.timezone
    except Exception:  # it has several ways not to find a zone
        return "timezone names no time zone"
    return None


def _transport_faults(connection: Connection) -> Iterator[str]:
    urls = [url for url in connection.alt or [] if "://" in url]
    schemes = [_scheme(url) for url in urls] or [str(connection.transport_cls)]
    for scheme in dict.fromkeys(schemes):
        fault = _lacking_for(_PACKAGES.get(scheme.lower()))
        if fault is not None:
            yield fault
        try:
            get_transport_cls(scheme)
        except KeyError:
            yield _unknown_transport(scheme)
        except ImportError as exc:
            yield _missing(scheme, exc)
    for url in urls:
        try:
            parse_url(url)
        except Exception:  # an option that it does not know, a port that is none
            yield "its URL cannot be read"
    options: dict[str, Any] = connection.transport_options or {}
    if "sentinel" in schemes and not options.get("master_name"):
        yield (
            "Sentinel has to be asked for a master by its name: "
            "--set broker_transport_options.master_name=NAME, or the same in the app"
        )


def _lacking_for(needed: tuple[tuple[str, ...], str] | None) -> str | None:
    """Return which of some modules are missing, and what brings them; None where all are there."""
    modules, package = needed or ((), "")
    lacking = [name for name in modules if not _is_there(name)]
    if not lacking:
        return None
    noun = "packages" if len(lacking) > 1 else "package"
    return f"it needs the Python {noun} {' and '.join(lacking)}: pip install '{package}'"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing
        return False


def _missing(scheme: str, exc: ImportError) -> str:
    _, package = _PACKAGES.get(scheme.lower(), ((), ""))
    hint = f": pip install '{package}'" if package else ""
    return f"the transport {scheme} cannot be loaded, {exc.name or say_why(exc)} is missing{hint}"


def _unknown_transport(scheme: str) -> str:
    return f"kombu has no transport {_or_nearest(scheme, list(TRANSPORT_ALIASES))}"


def _or_nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f"{word[:40]!a}" + (f"; did you mean {near[0]}?" if near else "")


def _url(celery_app: Celery) -> str:
    conf = celery_app.conf
    return str(conf.broker_read_url or conf.broker_write_url or conf.broker_transport)


def _scheme(url: str) -> str:
    return url.partition("://")[0].partition("+")[0] if not url.startswith("+") else url
