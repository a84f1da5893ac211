"""Which passwords are taken: length and a block list, no recipes (NIST SP 800-63B, 5.1.1.2)."""

from __future__ import annotations

import unicodedata

from kernel.reasons import Reason, Refused

MIN_CHARACTERS = 10
MAX_CHARACTERS = 128
_MIN_DISTINCT = 5

# What a person thinks of in this very place.
_OUR_WORDS = """
    bitcoin crypto dogecoin ethereum exchange ledger margin solana tidebook trader trading
"""
OUR_WORDS = frozenset(_OUR_WORDS.split())
_RUNS = ("01234567890123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm")
_LOOKALIKES = str.maketrans("013457$@!", "oleastsai")


def normalised(password: str) -> str:
    """The form that is hashed: the same password typed on two keyboards must be one."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, *, email: str, field: str, common: frozenset[str]) -> None:
    """Raises `Refused(PASSWORD_TOO_WEAK)` naming `field` and what is wrong.

    `common` are passwords that everybody tries first, whole or without the digits and signs around
    them: those do not make one better.
    """
    text = normalised(password)
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
        raise _weak(f"must have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters", field)
    folded = text.casefold()
    if len(set(folded)) < _MIN_DISTINCT or _is_run(folded):
        raise _weak("repeats a few characters or follows a row of keys", field)
    stem = _stem(folded)
    plain = {folded, stem, stem.translate(_LOOKALIKES), _stem(folded.translate(_LOOKALIKES))}
    if plain & common or plain & OUR_WORDS:
        raise _weak("is one of the most common passwords", field)
    local_part = email.casefold().partition("@")[0]
    if folded == email.casefold() or (len(local_part) >= 4 and stem == _stem(local_part)):
        raise _weak("must not be the e-mail address", field)


def _stem(text: str) -> str:
    """`text` without the digits and signs at both ends."""
    first = next((i for i, c in enumerate(text) if c.isalpha()), len(text))
    last = next((i for i in range(len(text), first, -1) if text[i - 1].isalpha()), first)
    return text[first:last]


def _is_run(text: str) -> bool:
    return any(text in run or text in run[::-1] for run in _RUNS)


def _weak(message: str, field: str) -> Refused:
    return Refused(Reason.PASSWORD_TOO_WEAK, message, field=field)
