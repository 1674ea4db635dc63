"""What a secret must be like: long and varied enough, and none that a manual shows. Rules never quote the value."""

import math
import re
import string
from typing import Final

from .kinds import read_text

#: Bytes of a secret that sessions are signed with, at the least.
MIN_SECRET: Final = 32
#: How to make one, at the end of a rule.
MAKE_SECRET: Final = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
_MIN_BITS: Final = 128
_MIN_TRIGRAMS: Final = 24
_ALPHABETS: Final = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_HEX: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
# Words that placeholders are made of, and rows of keyboards.
_WORDS: Final = re.compile(
    r"(?i)change|secret|passw(?:or)?d|passphrase|cookie|random|character|bytes|text|example|sample|default|dummy|taskmon"
    r"|flower|celery|token|session|signing|please|replace|insert|your|here|this|value|generated?|string|admin|letmein"
    r"|production|development|testing|long|enough|must|least|more|super|only|with|correct|horse|battery|staple"
    r"|qwertyuiop|qwertz|qwerty|azerty|asdfghjkl|asdf|yxcvbnm|zxcvbnm|1q2w3e4r"
)
_CASELESS: Final = re.compile(r"[^A-Za-z]*(?:[a-z][^A-Z]*|[A-Z][^a-z]*)")
#: Digests of tokens and hashes of passwords that earlier manuals of taskmon showed: everybody knows them.
_SAMPLES: Final = frozenset(
    (
        "782c8cf333353d2eed0bba82f58212acacbe05366c6df448ce1e89a12dd56bfe",
        "$scrypt$ln=14,r=8,p=1$GSGJTcMz0+KMn1/P06YDvA$dmsORyqq5J0sLmAgwj//7NroUomQGsn472wMpWqFAjs",
    )
)
_CLIENT_SAMPLES: Final = frozenset(("the client secret", "the secret that the provider gave"))


def is_sample(text: str) -> bool:
    """Whether it is the digest or the hash of a sample in a manual of taskmon."""
    return text in _SAMPLES


def find_weakness(text: str) -> str | None:
    """Return the rule that a secret to sign with breaks; None for one that looks random.

    What is looked for is what a generated text always has: length, variety, and neither words nor runs such as abcd.
    """
    if len(text.encode()) < MIN_SECRET:
        return f"must be at least {MIN_SECRET} bytes long"
    rest = _WORDS.sub(" ", text)
    if _is_words(text) or _bits(text) < _MIN_BITS or _count_trigrams(rest) < _MIN_TRIGRAMS:
        return "must be random: it is made of words, of repetitions or of too few different characters"
    return None


def read_cookie_secret(value: object) -> str:
    """Read a secret that sessions are signed with."""
    text = read_text(value)
    weakness = find_weakness(text)
    if weakness:
        raise ValueError(f"{weakness}; {MAKE_SECRET}")
    return text


def read_client_secret(value: object) -> str:
    """Read the secret that a provider gave to taskmon as its client."""
    text = read_text(value)
    if text in _CLIENT_SAMPLES:
        raise ValueError("must be the secret that the provider gave, and not the sample of the manual")
    return text


def _is_words(text: str) -> bool:
    """Whether it is a sentence: blanks, or letters of one case with only marks between them."""
    return bool(re.search(r"\s", text) or (not re.search(r"\d", text) and _CASELESS.fullmatch(text)))


def _bits(text: str) -> float:
    """Return how many bits a random text of this length and of these kinds of characters has."""
    if _HEX.fullmatch(text) and not text.isdecimal():
        return len(text) * 4.0
    kinds = [alphabet for alphabet in _ALPHABETS if not set(alphabet).isdisjoint(text)]
    size = sum(map(len, kinds)) + (32 if set(text) - set("".join(_ALPHABETS)) else 0)
    return len(text) * math.log2(size)


def _count_trigrams(text: str) -> int:
    """Return how many different three characters follow each other; those of a run, such as abc or 321, are none."""
    folded = text.lower()
    found = {folded[at : at + 3] for at in range(len(folded) - 2)}
    return sum(1 for three in found if " " not in three and not _is_run(three))


def _is_run(three: str) -> bool:
    first, second, third = map(ord, three)
    return second - first == third - second and abs(second - first) <= 1
