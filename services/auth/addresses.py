"""E-mail addresses: is it one, and when are two the same."""

from __future__ import annotations

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from kernel.reasons import Reason, Refused
from services.auth.domain.model import Address

# The way the library documents; mail inside a company or on a developer's machine may well use it.
SPECIAL_USE_DOMAIN_NAMES.remove("local")


def parse_address(text: str, *, production: bool) -> Address:
    """`" Ann@Example.ORG"` -> the address and its key `ann@example.org`.

    Outside production, names that only a test or a local network knows (`.test`, no dot) are taken
    too. Raises `Refused(EMAIL_INVALID)`; no DNS is asked.
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
