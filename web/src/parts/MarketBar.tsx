import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PriceJson, TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { compare, cut, percentOfBps, pretty } from "../lib/decimal";
import { kindOf, marketTitle, toneOf, words } from "../lib/names";
import { askOf, bidOf } from "../lib/profit";

interface Props {
  market: MarketJson;
  price: PriceJson | undefined;
  ticker: TickerJson | undefined;
}

/** The chosen market at a glance. */
export function MarketBar({ market, price, ticker }: Props) {
  const kind = kindOf(market);
  const tick = market.tickSize;
  const bps = ticker?.changeBps ?? 0;
  const shown = ticker?.last || price?.price;
  const open = ticker?.open || shown || "0";
  const tone = ["down", "", "up"][compare(shown || "0", open) + 1] ?? "";
  const status = ticker?.status ?? market.status;
  return (
    <section className="panel bar" aria-label="Market">
      <h2>{marketTitle(market.market)}</h2>
      {kind !== "spot" && <span className="badge">up to {market.maxLeverage}x</span>}
      <strong className={`price number ${tone}`}>{pretty(shown, tick)}</strong>
      <dl>
        {kind !== "cfd" && <Figure name="24 h change" text={percentOfBps(bps)} tone={toneOf(bps)} />}
        {kind === "cfd" && <Figure name="Sell at (bid)" text={pretty(bidOf(price), tick)} tone="down" />}
        {kind === "cfd" && <Figure name="Buy at (ask)" text={pretty(askOf(price), tick)} tone="up" />}
        {kind !== "cfd" && <Figure name="24 h high" text={pretty(ticker?.high, tick)} />}
        {kind !== "cfd" && <Figure name="24 h low" text={pretty(ticker?.low, tick)} />}
        {kind !== "cfd" && (
          <Figure name={`24 h volume (${market.quoteAsset})`} text={pretty(cut(ticker?.quoteVolume || "0", 0))} />
        )}
        <Figure
          name={price?.simulated ? "Index (simulated)" : "Index"}
          text={pretty(price?.price, tick)}
          tone={price?.stale ? "down" : ""}
        />
        {kind === "margin" && <Figure name="Mark" text={pretty(ticker?.markPrice, tick)} />}
      </dl>
      {status !== undefined && status !== "MARKET_STATUS_TRADING" && (
        <span className="badge bad" role="status">
          {words(status, "MARKET_STATUS_")}
        </span>
      )}
      {price?.stale && <span className="badge bad">price is stale</span>}
    </section>
  );
}

function Figure({ name, text, tone = "" }: { name: string; text: string; tone?: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd className={`number ${tone}`}>{text}</dd>
    </div>
  );
}
