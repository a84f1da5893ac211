"""What stands still until somebody has looked at it, said loudly and told to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Halt:
    """A job that cannot go on: at which log entry (0 when it is not about one), and why."""

    job: str
    log_seq: int
    problem: str

    def __str__(self) -> str:
        at = f" at log entry {self.log_seq}" if self.log_seq else ""
        return f"{self.job} stopped{at}: {self.problem}"


class Halts:
    """The jobs that have halted. `changed` is called after each."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._by_job: dict[str, Halt] = {}
        self._changed = changed

    def halt(self, job: str, log_seq: int, problem: str) -> None:
        """A job ends here and is not started again: the same would only happen again.

        The rest of the service goes on: reads are answered, the log is archived.
        """
        self._by_job[job] = Halt(job, log_seq, problem)
        log.critical("settlement_halted", job=job, log_seq=log_seq, problem=problem)
        self._changed()

    def of(self, job: str) -> Halt | None:
        """The halt of a job, None while it works."""
        return self._by_job.get(job)

    def summary(self) -> str:
        """All halts in one line; empty when there is none."""
        return "; ".join(map(str, self))

    def __iter__(self) -> Iterator[Halt]:
        return iter(self._by_job.values())

    def __bool__(self) -> bool:
        return bool(self._by_job)
