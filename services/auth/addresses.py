"""E-mail addresses: is it one, and when are two the same."""

from __future__ import annotations

from email_validator import EmailNotValidError, validate_email

from kernel.reasons import Reason, Refused
from services.auth.domain.model import Address


def parse_address(text: str, *, production: bool) -> Address:
    """`" Ann@Example.ORG"` -> the address and its key `ann@example.org`.

    Outside production, names that no mail can reach from the Internet (`.test`, `.local`) are
    taken too. Raises `Refused(EMAIL_INVALID)`; no DNS is asked.
    """
    try:
        valid = validate_email(
            text.strip(),
            check_deliverability=False,
            globally_deliverable=production,
            test_environment=not production,
        )
    except EmailNotValidError as error:
        raise Refused(Reason.EMAIL_INVALID, "is not an e-mail address", field="email") from error
    return Address(email=valid.normalized, key=valid.normalized.casefold())
