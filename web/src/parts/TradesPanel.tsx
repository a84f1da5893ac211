import { memo } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import { pretty } from "../lib/decimal";
import { useTrades } from "../lib/hooks";
import { clock } from "../lib/names";

export const TradesPanel = memo(function TradesPanel({ market }: { market: MarketJson }) {
  const trades = useTrades(market.market ?? "");
  return (
    <section className="panel trades" aria-label="Trades" aria-busy={trades === null} tabIndex={0}>
      <h2>Trades</h2>
      <div className="rows head">
        <span>Price</span>
        <span>Size</span>
        <span>Time</span>
      </div>
      {!trades?.length && <p className="notice">{trades === null ? "Loading…" : "No trades yet."}</p>}
      <ol>
        {trades?.map((trade) => (
          <li key={trade.tradeId} className="rows">
            <span className={`number ${trade.takerSide === "SIDE_BUY" ? "up" : "down"}`}>
              {pretty(trade.price, market.tickSize)}
            </span>
            <span className="number">{pretty(trade.quantity, market.lotSize)}</span>
            <time className="number" dateTime={trade.time}>
              {clock(trade.time)}
            </time>
          </li>
        ))}
      </ol>
    </section>
  );
});
