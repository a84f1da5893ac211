"""What an asset and a market are, and the defaults Tidebook starts with.

A market whose `tick_size x lot_size` is not a whole number of quote units is refused, so that
`price_ticks * quantity_lots * units_per_tick_lot` is always the exact notional.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernel.money import format_units, parse_units
from kernel.reasons import Reason, Refused


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset; `asset_id` is what the log says, `code` what people say."""

    asset_id: int
    code: str
    decimals: int = 8
    transfer_decimals: int = 8

    def parse(self, text: str, *, field: str = "amount") -> int:
        """Decimal string -> units of this asset; raises `Refused`."""
        return parse_units(text, self.decimals, field=field)

    def format(self, units: int) -> str:
        """Units of this asset -> decimal string."""
        return format_units(units, self.decimals)


@dataclass(frozen=True, slots=True)
class MarginTier:
    """Maintenance margin from an entry notional (quote units) on; the rate in basis points."""

    from_notional_units: int
    maintenance_bps: int
    max_leverage: int


@dataclass(frozen=True, slots=True)
class Market:
    """A market's rules in integers. Sizes: `tick_size_units` are quote units per whole base coin,
    `lot_size_units` base units, `min_notional_units` and `max_exposure_units` quote units; fees and
    `price_band_bps` in basis points. Leverage is whole; 0, and no tiers, for spot.
    `price_stale_ns`, `price_band_bps` and `max_exposure_units` are 0 for no limit.
    """

    market_id: int
    name: str
    kind: str  # SPOT, MARGIN or CFD
    base: Asset
    quote: Asset
    tick_size_units: int
    lot_size_units: int
    min_quantity_lots: int = 1
    max_quantity_lots: int = 10**12
    min_notional_units: int = 0
    max_notional_units: int = 10**17
    max_price_ticks: int = 10**12
    maker_fee_bps: int = 10
    taker_fee_bps: int = 20
    max_open_orders: int = 200
    max_leverage: int = 0
    margin_tiers: tuple[MarginTier, ...] = ()
    liquidation_fee_bps: int = 0
    price_stale_ns: int = 0
    price_band_bps: int = 0
    max_exposure_units: int = 0
    units_per_tick_lot: int = 0

    def __post_init__(self) -> None:
        scale = 10**self.base.decimals
        exact, rest = divmod(self.tick_size_units * self.lot_size_units, scale)
        if rest or exact <= 0:
            raise ValueError(
                f"{self.name}: tick_size x lot_size must be a whole number of"
                f" {self.quote.code} units, or notionals would have to be rounded"
            )
        object.__setattr__(self, "units_per_tick_lot", exact)

    @property
    def pair(self) -> str:
        """The spot name of what is traded, the same for all kinds: "BTC_USDC"."""
        return f"{self.base.code}_{self.quote.code}"

    @property
    def tick_size(self) -> str:
        return format_units(self.tick_size_units, self.quote.decimals)

    @property
    def lot_size(self) -> str:
        return format_units(self.lot_size_units, self.base.decimals)

    def parse_price(self, text: str, *, field: str = "price") -> int:
        """Decimal string -> ticks; `Refused(PRICE_NOT_ON_TICK)` between two ticks."""
        ticks, rest = _steps(text, self.quote.decimals, self.tick_size_units, field)
        if rest:
            raise Refused(
                Reason.PRICE_NOT_ON_TICK,
                f"must be a multiple of {self.tick_size}",
                field=field,
                tick_size=self.tick_size,
            )
        return ticks

    def parse_quantity(self, text: str, *, field: str = "quantity") -> int:
        """Decimal string -> lots; `Refused(QUANTITY_NOT_ON_LOT)` between two lots."""
        lots, rest = _steps(text, self.base.decimals, self.lot_size_units, field)
        if rest:
            raise Refused(
                Reason.QUANTITY_NOT_ON_LOT,
                f"must be a multiple of {self.lot_size}",
                field=field,
                lot_size=self.lot_size,
            )
        return lots

    def format_price(self, ticks: int) -> str:
        return format_units(ticks * self.tick_size_units, self.quote.decimals)

    def format_quantity(self, lots: int) -> str:
        return format_units(lots * self.lot_size_units, self.base.decimals)

    def notional_units(self, price_ticks: int, quantity_lots: int) -> int:
        """Exact quote units of `quantity_lots` at `price_ticks`."""
        return price_ticks * quantity_lots * self.units_per_tick_lot


def _steps(text: str, decimals: int, step_units: int, field: str) -> tuple[int, int]:
    """How many whole steps `text` is, and whether anything is left over."""
    try:
        units = parse_units(text, decimals, field=field)
    except Refused as refused:
        if refused.reason is Reason.AMOUNT_TOO_PRECISE:
            return 0, 1
        raise
    return divmod(units, step_units)


DEFAULT_ASSETS: tuple[Asset, ...] = (
    Asset(1, "USDC", transfer_decimals=6),
    Asset(2, "BTC"),
    Asset(3, "ETH"),
    Asset(4, "SOL"),
    Asset(5, "DOGE"),
    Asset(6, "BNB"),
)


# Nothing older than this is a price.
PRICE_STALE_NS = 10_000_000_000


def default_markets() -> tuple[Market, ...]:
    """Five pairs, each as SPOT (ids 1 to 5), MARGIN (6 to 10) and CFD (11 to 15)."""
    assets = {asset.code: asset for asset in DEFAULT_ASSETS}
    usdc = assets["USDC"]
    rows = (
        ("BTC", "0.01", "0.00001"),
        ("ETH", "0.01", "0.0001"),
        ("SOL", "0.01", "0.001"),
        ("DOGE", "0.00001", "1"),
        ("BNB", "0.01", "0.001"),
    )
    spot = tuple(
        Market(
            market_id=number,
            name=f"{code}_USDC",
            kind="SPOT",
            base=assets[code],
            quote=usdc,
            tick_size_units=usdc.parse(tick),
            lot_size_units=assets[code].parse(lot),
            min_notional_units=usdc.parse("1"),
            max_notional_units=usdc.parse("10000000"),
            price_stale_ns=PRICE_STALE_NS,
        )
        for number, (code, tick, lot) in enumerate(rows, start=1)
    )
    margin = tuple(
        replace(
            market,
            market_id=market.market_id + len(rows),
            name=f"{market.name}_MARGIN",
            kind="MARGIN",
            maker_fee_bps=2,
            taker_fee_bps=5,
            max_leverage=100,
            margin_tiers=_tiers(usdc),
            liquidation_fee_bps=50,
            price_band_bps=1000,
        )
        for market in spot
    )
    cfd = tuple(
        replace(
            market,
            market_id=market.market_id + 2 * len(rows),
            name=f"{market.name}_CFD",
            kind="CFD",
            # The spread is what the house earns.
            maker_fee_bps=0,
            taker_fee_bps=0,
            max_leverage=100,
            margin_tiers=_tiers(usdc),
            liquidation_fee_bps=50,
            max_exposure_units=usdc.parse("20000000"),
        )
        for market in spot
    )
    return spot + margin + cfd


def _tiers(quote: Asset) -> tuple[MarginTier, ...]:
    """Maintenance rates that leave room under 1 / leverage; the larger the position, the more."""
    return (
        MarginTier(0, 40, 100),
        MarginTier(quote.parse("250000"), 100, 50),
        MarginTier(quote.parse("1000000"), 250, 20),
        MarginTier(quote.parse("5000000"), 500, 10),
    )
