"""The text, the table and the docs."""

import re
from pathlib import Path

from scene import Scene

from taskmon.http.refusals import Refusals
from taskmon.metrics import CELERY_EXPORTER, CONTENT_TYPE, METRICS, HistoryNumbers
from taskmon.metrics.table import HISTORY


def test_every_metric_has_its_help_and_type_even_without_samples() -> None:
    text = Scene(celery_exporter=True).metrics.render().decode()
    for metric in METRICS + CELERY_EXPORTER:
        assert f"# HELP {metric.full_name()} {metric.help}\n# TYPE {metric.full_name()} {metric.kind}\n" in text
    assert text.endswith("\n")
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_the_labels_are_those_of_the_table() -> None:
    scene = Scene("flower", celery_exporter=True)
    scene.add_worker("celery@w1", 1, 4, "mail")
    scene.find_queues({"mail": (3, 1)})
    scene.intake.reject("no-type")
    scene.intake.omit("retries")
    sent = scene.send("a", age=5)
    sent.received, sent.started = scene.now - 1, scene.now
    for kind in ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected"):
        scene.see(f"task-{kind}", sent, "celery@w1", runtime=1.0)
    scene.state.prefetched["celery@w1", "app.add"] = 1
    scene.metrics.watch_history(lambda: HistoryNumbers(1, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0))
    scene.metrics.watch_access(Refusals().live_counts)
    table = {metric.full_name("flower"): metric for metric in METRICS + CELERY_EXPORTER}
    unseen = set(table)
    for name, labels in scene.samples():
        metric = table.get(name) or table.get(re.sub("_(bucket|count|sum)$", "", name))
        if metric is not None:
            assert {label for label, _ in labels} - {"le"} == set(metric.labels), name
            unseen.discard(metric.full_name("flower"))
    assert not unseen


def test_each_metric_of_the_history_has_its_number() -> None:
    assert HistoryNumbers._fields == HISTORY


def test_the_docs_list_every_metric_with_its_labels_and_nothing_else() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", text, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(rows) == len(listed)
    assert listed == {metric.full_name(): (metric.kind, metric.labels) for metric in METRICS + CELERY_EXPORTER}
