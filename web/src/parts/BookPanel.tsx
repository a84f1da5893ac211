import { memo, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { OrderJson } from "../gen/tidebook/engine/v1/order_pb";
import { type Book, grouped, type Row, withTotals } from "../lib/book";
import { compare, multiply, pretty, subtract } from "../lib/decimal";
import { useBook } from "../lib/hooks";
import { isBuy } from "../lib/names";
import { percent } from "../lib/screen";
import { Tabs } from "./Basics";
import { DepthChart } from "./DepthChart";

const LEVELS = 14;
const GROUPS = ["1", "10", "100", "1000"];

interface Props {
  market: MarketJson;
  orders: readonly OrderJson[];
  onPrice: (price: string) => void;
}

export const BookPanel = memo(function BookPanel({ market, orders, onPrice }: Props) {
  const book = useBook(market.market ?? "");
  const [factor, setFactor] = useState("1");
  const [view, setView] = useState<"book" | "depth">("book");
  const step = multiply(market.tickSize ?? "1", factor);
  return (
    <section className="panel book" aria-label="Order book" aria-busy={book === null}>
      <h2>
        Order book {book && <small title="Position in the exchange's log">seq {book.seq}</small>}
        <span className="spacer" />
        <Tabs
          label="How the book is shown"
          tabs={[
            ["book", "Book"],
            ["depth", "Depth"],
          ]}
          chosen={view}
          onChoose={setView}
        />
        <select aria-label="Group prices by" value={factor} onChange={(event) => setFactor(event.target.value)}>
          {GROUPS.map((group) => (
            <option key={group} value={group}>
              {multiply(market.tickSize ?? "1", group)}
            </option>
          ))}
        </select>
      </h2>
      {book === null && <p className="notice">Loading…</p>}
      {book !== null && view === "book" && <Ladder {...{ book, market, orders, onPrice, step }} />}
      {book !== null && view === "depth" && <DepthChart book={book} market={market} />}
    </section>
  );
});

function Ladder({ book, market, orders, onPrice, step }: Props & { book: Book; step: string }) {
  const bids = withTotals(grouped(book.bids, step, "bid", LEVELS));
  const asks = withTotals(grouped(book.asks, step, "ask", LEVELS));
  const deepest = [bids.at(-1)?.total ?? "0", asks.at(-1)?.total ?? "0"].sort(compare)[1] ?? "0";
  const bestBid = book.bids[0]?.price;
  const bestAsk = book.asks[0]?.price;
  const resting = orders.filter(
    (order) => order.market === market.market && order.status !== "ORDER_STATUS_UNTRIGGERED",
  );
  const own = new Set([
    ...grouped(resting.filter((order) => isBuy(order.side)), step, "bid").map((level) => level.price),
    ...grouped(resting.filter((order) => !isBuy(order.side)), step, "ask").map((level) => level.price),
  ]);
  const shared = { market, deepest, onPrice, own, step };
  return (
    <>
      <div className="rows head">
        <span>Price ({market.quoteAsset})</span>
        <span>Size ({market.baseAsset})</span>
        <span>Total</span>
      </div>
      <Side rows={[...asks].reverse()} side="ask" {...shared} />
      <p className="spread">
        {bestBid && bestAsk ? `Spread ${pretty(subtract(bestAsk, bestBid), market.tickSize)}` : missing(bestBid, bestAsk)}
      </p>
      <Side rows={bids} side="bid" {...shared} />
    </>
  );
}

/** What an empty side means for who wants to trade. */
function missing(bestBid: string | undefined, bestAsk: string | undefined): string {
  if (bestBid) return "Nobody sells here now: a market buy finds nothing.";
  if (bestAsk) return "Nobody buys here now: a market sale finds nothing.";
  return "Nobody quotes in this market now. A limit order can wait here until somebody does.";
}

interface SideProps {
  market: MarketJson;
  onPrice: (price: string) => void;
  rows: Row[];
  side: "bid" | "ask";
  deepest: string;
  own: ReadonlySet<string | undefined>;
  step: string;
}

function Side({ rows, side, market, deepest, onPrice, own, step }: SideProps) {
  return (
    <ol className={side} aria-label={side === "bid" ? "Bids" : "Asks"}>
      {rows.map(({ price, quantity, total }) => (
        <li key={price}>
          <button
            type="button"
            className="rows"
            title={own.has(price) ? "Your order is here. Use this price" : "Use this price"}
            onClick={() => onPrice(price)}
            style={{ backgroundSize: `${percent(total, deepest)}% 100%` }}
          >
            <span className={`number ${side === "bid" ? "up" : "down"}`}>
              {own.has(price) && <span aria-label="your order">• </span>}
              {pretty(price, step)}
            </span>
            <span className="number">{pretty(quantity, market.lotSize)}</span>
            <span className="number">{pretty(total, market.lotSize)}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}
