"""The exchange: one command in, the events it caused out."""

from __future__ import annotations

from services.engine.domain.commands import AssetConfig, Command
from services.engine.domain.events import Event
from services.engine.domain.views import BalanceView, BookView, MarketView, OrderView


class Exchange:
    """Balances, books and everything else that decides what a command does."""

    def apply(self, command: Command, now_ns: int) -> list[Event]:
        """Apply one command at a time (of the log entry, never decreasing).

        A refused command yields exactly one `CommandRefused` and changes nothing but
        `last_command_seq`.
        """
        raise NotImplementedError

    @property
    def last_command_seq(self) -> int:
        """How many commands were applied, refused ones included."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        """Epoch of the newest writer; 0 before the first."""
        raise NotImplementedError

    def order(self, order_id: int) -> OrderView | None:
        """A live order."""
        raise NotImplementedError

    def order_by_client_id(self, account_id: int, client_order_id: str) -> OrderView | None:
        """A live order by its owner's id."""
        raise NotImplementedError

    def known_order_id(self, account_id: int, client_order_id: str, now_ns: int) -> int:
        """Order of a client id, live or inside the idempotency window; 0 if there is none."""
        raise NotImplementedError

    def open_orders(self, account_id: int, market_id: int = 0) -> list[OrderView]:
        """Live orders of an account, oldest first; of all markets when `market_id` is 0."""
        raise NotImplementedError

    def open_order_count(self) -> int:
        """Live orders of all accounts."""
        raise NotImplementedError

    def account(self, account_id: int) -> dict[int, BalanceView]:
        """Asset id -> balance, for every asset the account has some of."""
        raise NotImplementedError

    def accounts(self) -> list[int]:
        """Ids of the accounts that have money, ascending."""
        raise NotImplementedError

    def book(self, market_id: int) -> BookView:
        """Every resting order of a market. Raises `KeyError` for an unknown market."""
        raise NotImplementedError

    def assets(self) -> list[AssetConfig]:
        """Assets by id."""
        raise NotImplementedError

    def markets(self) -> list[MarketView]:
        """Markets by id."""
        raise NotImplementedError

    def fees(self) -> dict[int, int]:
        """Asset id -> units of fees taken so far."""
        raise NotImplementedError

    def external(self) -> dict[int, int]:
        """Asset id -> units that came in by transfers minus those that left."""
        raise NotImplementedError

    def next_expiry_ns(self) -> int:
        """When the next GTD order expires, which takes a `Tick`; 0 if none will."""
        raise NotImplementedError

    def state_hash(self) -> bytes:
        """sha-256 over everything that decides future behaviour, `last_command_seq` left out."""
        raise NotImplementedError

    def snapshot(self) -> bytes:
        """Everything that decides future behaviour, in a versioned canonical form."""
        raise NotImplementedError

    @staticmethod
    def restore(data: bytes) -> Exchange:
        """The exchange that `snapshot` was taken of. Raises `ValueError` for anything else."""
        raise NotImplementedError

    def check_invariants(self) -> None:
        """Raise `AssertionError` if money, holds or books are not what they must be."""
        raise NotImplementedError
