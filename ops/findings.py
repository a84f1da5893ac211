"""What `tidebook verify` has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Check:
    """One comparison: how many things were compared, and every difference in words."""

    name: str
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    note: str = ""


@dataclass
class Report:
    """All checks, and the log position of the ledger that they were made at."""

    checks: list[Check] = field(default_factory=list)
    applied_seq: int = 0
    log_seq: int = 0
    seconds: float = 0.0

    def check(self, name: str) -> Check:
        """Start another check."""
        self.checks.append(Check(name))
        return self.checks[-1]

    @property
    def differences(self) -> int:
        return sum(len(check.differences) for check in self.checks)
