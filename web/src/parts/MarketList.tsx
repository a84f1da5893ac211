import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PriceJson, TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { pretty } from "../lib/decimal";

interface Props {
  markets: MarketJson[];
  prices: Readonly<Record<string, PriceJson>>;
  tickers: Readonly<Record<string, TickerJson>>;
  chosen: string;
  onChoose: (market: string) => void;
}

export function MarketList({ markets, prices, tickers, chosen, onChoose }: Props) {
  return (
    <nav className="markets" aria-label="Markets">
      {markets.map((market) => {
        const name = market.market ?? "";
        const price = prices[name];
        const ticker = tickers[name];
        const bps = ticker?.changeBps ?? 0;
        return (
          <button
            type="button"
            key={name}
            aria-pressed={name === chosen}
            onClick={() => onChoose(name)}
          >
            <strong>
              {market.baseAsset}
              <small>/{market.quoteAsset}</small>
            </strong>
            <span className="number">{pretty(ticker?.last || price?.price, market.tickSize)}</span>
            <span className={`number ${bps < 0 ? "down" : "up"}`}>{percentOf(bps)}</span>
            <small className="number" title="Price of the external feed">
              index {pretty(price?.price, market.tickSize)}
              {price?.simulated && " (simulated)"}
              {price?.stale && " (stale)"}
            </small>
          </button>
        );
      })}
    </nav>
  );
}

/** Basis points as a percentage, without a float: -125 -> "-1.25 %". */
function percentOf(bps: number): string {
  const size = Math.abs(bps).toString().padStart(3, "0");
  return `${bps < 0 ? "-" : "+"}${size.slice(0, -2)}.${size.slice(-2)} %`;
}
