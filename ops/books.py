"""The books of a running system as `tidebook status` shows them."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from rich.markup import escape
from rich.table import Table
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc, ledger_pb2, ledger_pb2_grpc

from kernel.reasons import Refused
from mesh.channel import open_channel
from mesh.config import Settings

_TIMEOUT_SECONDS = 3.0
_STATES = {
    ledger_pb2.RECONCILIATION_STATE_MATCHED: "[green]matched[/]",
    ledger_pb2.RECONCILIATION_STATE_WAITING: "[yellow]waiting[/]",
    ledger_pb2.RECONCILIATION_STATE_DIFFERS: "[bold red]DIFFERS[/]",
}


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What settlement says of its books, and by shard why a job of it has halted (empty: none)."""

    books: ledger_pb2.GetReconciliationResponse
    halted: dict[int, str]


async def ask(settings: Settings) -> Reconciled | None:
    """What the running settlement says; None when it does not answer."""
    async with open_channel(settings, "settlement", caller="ops") as channel:
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        internal = internal_pb2_grpc.SettlementInternalServiceStub(channel)
        try:
            books = await ledger.GetReconciliation(
                ledger_pb2.GetReconciliationRequest(), timeout=_TIMEOUT_SECONDS
            )
            halted = {}
            for shard in books.shards:
                request = internal_pb2.GetProgressRequest(shard=shard.shard)
                progress = await internal.GetProgress(request, timeout=_TIMEOUT_SECONDS)
                halted[shard.shard] = progress.halted
        except (grpc.RpcError, Refused):
            return None
    return Reconciled(books, halted)


def are_well(reconciled: Reconciled) -> bool:
    """Nothing differs, everything adds up and nothing has stopped for good."""
    books = reconciled.books
    return (
        books.balanced
        and not books.halted
        and books.state != ledger_pb2.RECONCILIATION_STATE_DIFFERS
    )


def table_of(reconciled: Reconciled) -> Table:
    """One row a shard."""
    head = ("books", "ledger at", "archive at", "behind", "compared", "differing", "halted")
    table = Table(*head, box=None, padding=(0, 2, 0, 0))
    for shard in reconciled.books.shards:
        behind = shard.newest_log_seq - shard.log_seq
        state = _STATES.get(shard.state, "-")
        table.add_row(
            f"shard {shard.shard}",
            f"{shard.log_seq:,} of {shard.newest_log_seq:,}",
            f"{shard.archived_log_seq:,}",
            f"{behind:,} entries, {shard.behind_ms / 1000:.1f} s",
            f"{state} at {shard.compared_log_seq:,}",
            f"[bold red]{shard.differing:,}[/]" if shard.differing else "0",
            f"[bold red]{escape(reconciled.halted[shard.shard])}[/]" if shard.halted else "no",
        )
    for asset in reconciled.books.assets:
        if asset.difference != "0":
            off = f"[bold red]off by {asset.difference}[/]"
            table.add_row(f"{asset.asset}", "", "", "", off, "", "")
    if overdue := reconciled.books.overdue:
        table.add_row("overdue", f"[yellow]{overdue:,} transfers or orders[/]", *[""] * 5)
    return table
