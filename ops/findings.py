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
    """All checks, and by shard the positions that they were made at: that of its ledger, and the
    end of its log. `suffix` is what the names of the checks to come end in.
    """

    checks: list[Check] = field(default_factory=list)
    positions: dict[int, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0
    suffix: str = ""

    def check(self, name: str) -> Check:
        """Start another check."""
        self.checks.append(Check(name + self.suffix))
        return self.checks[-1]

    @property
    def differences(self) -> int:
        return sum(len(check.differences) for check in self.checks)
