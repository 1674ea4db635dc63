"""The sample Celery application, a small shop: its tasks, and the orders that keep them coming.

The worker's process makes the application to run tasks, taskmon's own to publish orders and to watch.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import Celery, chain, group

from .transport import transport_options

#: Seconds between two looks into the broker's folder.
POLLING_INTERVAL = 0.05

#: The exchanges that Celery uses: tasks, events, remote control and its replies.
EXCHANGES = ("celery", "celeryev", "celery.pidbox", "reply.celery.pidbox")

DECLINED_CARD = "4000-0000-0000-0002"
GOOD_CARDS = ("4242-4242-4242-4242", "5555-5555-5555-4444", "3782-8224-6310-0005")


class CardDeclined(Exception):
    """The bank said no."""


class MailServerBusy(Exception):
    """The mail server asks to try again."""


def check_stock(sku: str, quantity: int) -> bool:
    """A fast one."""
    time.sleep(random.uniform(0.005, 0.03))
    return quantity < 10 and sku != ""


def charge_card(order: int, card: str, amount: float) -> dict[str, Any]:
    """One that fails when the card is bad."""
    time.sleep(random.uniform(0.05, 0.2))
    if card == DECLINED_CARD:
        raise CardDeclined(f"order {order}: the bank declined {amount:.2f} EUR on card ***{card[-4:]}")
    return {"order": order, "paid": amount, "currency": "EUR"}


def send_receipt(self: Any, order: int, to: str) -> str:
    """One that is retried once, for every second order."""
    time.sleep(random.uniform(0.02, 0.1))
    if order % 2 and self.request.retries == 0:
        raise self.retry(exc=MailServerBusy("421 try again later"), countdown=1, max_retries=3)
    return f"receipt of order {order} sent to {to}"


def resize_photo(photo: str, width: int) -> str:
    """A middling one, sent in groups."""
    time.sleep(random.uniform(0.2, 0.5))
    return f"{photo.removesuffix('.jpg')}-{width}.jpg"


def build_sales_report(month: str, rows: int = 5000) -> dict[str, Any]:
    """A slow one."""
    time.sleep(random.uniform(3, 6))
    return {"month": month, "rows": rows}


def remind_of_cart(customer: str) -> str:
    """One that waits for its time."""
    time.sleep(random.uniform(0.01, 0.05))
    return f"reminded {customer}"


def make_celery(broker: Path) -> Celery:
    """Make the application of all who share the folder `broker`."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        broker_url="filesystem://localhost//",
        broker_transport="taskmon.demo.transport:Transport",
        broker_transport_options=transport_options(broker, POLLING_INTERVAL),
        broker_connection_retry_on_startup=True,
        task_send_sent_event=True,
        result_backend=f"db+sqlite:///{broker}/results.sqlite3",
        result_extended=True,
        worker_send_task_events=True,
    )
    for function in (check_stock, charge_card, resize_photo, build_sales_report, remind_of_cart):
        app.task(name=f"shop.{function.__name__}", shared=False)(function)
    app.task(name="shop.send_receipt", bind=True, shared=False)(send_receipt)
    return app


class Shop:
    """Publishes one small piece of the shop's day at a time; any thread, one at a time."""

    def __init__(self, app: Celery, chance: random.Random) -> None:
        self._app = app
        self._chance = chance
        self._orders = itertools.count(1001)
        self._day: Iterator[Callable[[], str]] = itertools.cycle(
            (
                self._order,
                self._look_around,
                self._look_around,
                self._declined,
                self._photos,
                self._look_around,
                self._order,
                self._reminder,
                self._report,
                self._look_around,
            )
        )

    def publish_next(self) -> str:
        """Publish the next tasks and return the id of one of them."""
        return next(self._day)()

    def _sign(self, name: str, **kwargs: Any) -> Any:
        return self._app.signature(f"shop.{name}", kwargs=kwargs, immutable=True)

    def _customer(self) -> str:
        return self._chance.choice(("ada", "grace", "linus", "margaret", "tim")) + "@example.org"

    def _order(self) -> str:
        """A chain: look into the stock, charge, and send a receipt."""
        order = next(self._orders)
        amount = self._chance.randrange(500, 20_000) / 100
        first = self._sign("check_stock", sku=f"SKU-{self._chance.randrange(100, 999)}", quantity=1)
        pay = self._sign("charge_card", order=order, card=self._chance.choice(GOOD_CARDS), amount=amount)
        receipt = self._sign("send_receipt", order=order, to=self._customer())
        result = chain(first, pay, receipt, app=self._app).apply_async()
        return str(result.parent.id)

    def _look_around(self) -> str:
        return str(self._sign("check_stock", sku=f"SKU-{self._chance.randrange(100, 999)}", quantity=2).apply_async())

    def _declined(self) -> str:
        return str(self._sign("charge_card", order=next(self._orders), card=DECLINED_CARD, amount=99.9).apply_async())

    def _photos(self) -> str:
        photo = f"mug-{self._chance.randrange(100)}.jpg"
        sizes = [self._sign("resize_photo", photo=photo, width=width) for width in (320, 640, 1280)]
        return str(group(sizes, app=self._app).apply_async()[0])

    def _report(self) -> str:
        return str(self._sign("build_sales_report", month=f"2025-{self._chance.randrange(1, 13):02}").apply_async())

    def _reminder(self) -> str:
        return str(self._sign("remind_of_cart", customer=self._customer()).apply_async(countdown=20))
