"""What a script calls its accounts and orders, and the numbers the core knows them by."""

from __future__ import annotations

from typing import Any

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused

# As sign-up gives them out: 1 is the insurance fund's, and the first thousand are kept.
_FIRST_ACCOUNT = 1001


class Names:
    """Accounts get ids from `_FIRST_ACCOUNT` in the order in which they are first mentioned."""

    def __init__(self) -> None:
        self.account_ids: dict[str, int] = {}
        self.account_names: dict[int, str] = {}
        self.order_ids: dict[str, int] = {}
        self.order_names: dict[int, str] = {}

    def account(self, name: str) -> int:
        """Id of an account, given out when the name is new."""
        account_id = self.account_ids.get(name)
        if account_id is None:
            account_id = _FIRST_ACCOUNT
            while account_id in self.account_names:
                account_id += 1
            self.name_account(name, account_id)
        return account_id

    def name_account(self, name: str, account_id: int) -> None:
        """Give an account its id. Raises `Refused` for an id or a name that is taken."""
        if not 0 < account_id <= INT64_MAX:
            raise Refused(Reason.INVALID_ARGUMENT, "is not an id", field="account_id")
        if self.account_ids.get(name, account_id) != account_id:
            raise Refused(Reason.ALREADY_EXISTS, "has another id already", field="account")
        if self.account_names.get(account_id, name) != name:
            raise Refused(Reason.ALREADY_EXISTS, "is another account's", field="account_id")
        self.account_ids[name] = account_id
        self.account_names[account_id] = name

    def name_order(self, name: str, order_id: int) -> None:
        """From now on the name means this order; the one it meant before goes without."""
        before = self.order_ids.get(name)
        if before is not None:
            del self.order_names[before]
        # Placed again with the same key under another name: the newest name is shown.
        self.order_ids.pop(self.order_names.get(order_id, ""), None)
        self.order_ids[name] = order_id
        self.order_names[order_id] = name

    def dump(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"accounts": self.account_ids, "orders": self.order_ids}

    @classmethod
    def load(cls, data: dict[str, Any]) -> Names:
        """What `dump` gave. Raises what bad data makes it raise."""
        names = cls()
        for name, account_id in data["accounts"].items():
            names.name_account(name, account_id)
        for name, order_id in data["orders"].items():
            names.name_order(name, order_id)
        return names
