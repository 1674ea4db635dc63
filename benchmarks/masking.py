"""Masking of texts: `python -m benchmarks.masking`.

Each text has 64 KiB: what tasks say, and what somebody would write who wants masking to take long. Half of a text is
masked too: time in proportion to the length takes half as long.
"""

import time
from typing import Final

from taskmon.http.masker import Masker
from taskmon.settings import Settings

from .tables import print_table

LENGTH: Final = 65_536
RUNS: Final = 7

#: What a text of each kind repeats, after what it begins with.
TEXTS: Final[dict[str, tuple[str, str]]] = {
    "words": ("", "lorem ipsum dolor sit amet, consectetur adipiscing, "),
    "JSON without secrets": ("", '{"id": 1, "name": "xyz", "values": [1, 2, 3]}, '),
    "addresses": ("", "https://a.example/path/to/some/thing, "),
    "a password in each line": (
        "",
        "{'user': 'ann', 'password': 'hunter2', 'n': [1, 2, 3], 'address': '5 High Street'},\n",
    ),
    "nothing but passwords": ("", "'password': 'x', "),
    "short passwords": ("", "pin=1 "),
    "names that are none": ("", "'session_count': 1, "),
    "JSON within JSON": ("", '{\\"password\\": \\"x\\"}, '),
    "nested": ("", "{'token': "),
    "brackets": ("token=", "("),
    "many brackets": ("", "token=((())) "),
    "angle brackets": ("token=", "<>"),
    "quotes": ("token=x ", "'"),
    "backslashes": ("token=x", "\\"),
    "backslashes and quotes": ("token='", "\\\\\\'"),
    "blanks": ("token=a", " "),
    "words of names": ("", "pass_"),
    "PEM": ("", "-----BEGIN X-----"),
    "web tokens": ("", "-eyJ"),
    "URLs": ("", "http://a:b"),
    "URLs with @": ("x://a:", "@:"),
    "headers": ("", "Authorization: "),
    "schemes": ("", "bearer basic "),
    "texts side by side": ("token=", "'' "),
    "encoded quotes": ("", "&quot;pin"),
    "encoded backslashes": ("pin%22:%22", "\\%22"),
    "names and values": ("", "'name': 'pin', "),
    "elements": ("", "<password "),
    "lines": ("token: |\n ", "\n \n  "),
    "commands": ("", "curl -u "),
    "triple quotes": ("", "token='''"),
}


def take_time(masker: Masker, text: str) -> float:
    """Return the least processor time that masking a text takes, in ms, so that other programs do not count."""
    times = []
    for _ in range(RUNS):
        began = time.thread_time()
        masker.text(text)
        times.append(1e3 * (time.thread_time() - began))
    return min(times)


def run() -> None:
    """Mask each text, and half of it, and print a table."""
    masker = Masker(Settings().mask_keys)
    rows = []
    for what, (opening, piece) in TEXTS.items():
        text = (opening + piece * LENGTH)[:LENGTH]
        whole, half = take_time(masker, text), take_time(masker, text[: LENGTH // 2])
        rows.append([what, whole, half, whole / half])
    print_table(
        "Masking a text of 64 KiB, the least of some processor times", ["text", "ms", "ms for half", "ratio"], rows
    )


if __name__ == "__main__":
    run()
