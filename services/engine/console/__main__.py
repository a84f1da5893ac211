"""`python -m services.engine.console`: a line of JSON in, a line of JSON out (docs/console.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import structlog

from kernel.reasons import Reason, Refused
from services.engine.console.session import Session, refusal

log = structlog.get_logger()


def run(lines: Iterable[bytes]) -> Iterator[str]:
    """The answers to a script, in order; none to blank lines and comments. Never raises."""
    session = Session()
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield json.dumps(_answer(session, stripped, number), separators=(",", ":"))


def _answer(session: Session, line: bytes, number: int) -> dict[str, Any]:
    try:
        try:
            command = json.loads(line.decode(), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise Refused(Reason.INVALID_ARGUMENT, "is not JSON") from error
        if not isinstance(command, dict):
            raise Refused(Reason.INVALID_ARGUMENT, "is not a JSON object")
        return session.execute(command)
    except Refused as refused:
        return {**refusal(refused), "line": number}
    except Exception:
        # A script goes on, and whoever runs it sees where the console was wrong.
        log.exception("command_failed", line=number)
        return {**refusal(Refused(Reason.INTERNAL, "the console failed")), "line": number}


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def main() -> None:
    """Answer standard input until it ends."""
    # Standard output is for answers alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for answer in run(sys.stdin.buffer):
        print(answer, flush=True)


if __name__ == "__main__":
    main()
