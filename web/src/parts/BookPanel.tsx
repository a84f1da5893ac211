import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { LevelJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { add, compare, percent, pretty, subtract } from "../lib/decimal";
import { useBook } from "../lib/hooks";

const LEVELS = 14;

interface Props {
  market: MarketJson;
  onPrice: (price: string) => void;
}

export function BookPanel({ market, onPrice }: Props) {
  const book = useBook(market.market ?? "");
  if (book === null) {
    return (
      <section className="panel book" aria-label="Order book" aria-busy="true">
        <h2>Order book</h2>
        <p className="notice">Loading…</p>
      </section>
    );
  }
  const bids = withTotals(book.bids.slice(0, LEVELS));
  const asks = withTotals(book.asks.slice(0, LEVELS));
  const deepest = [bids.at(-1)?.total ?? "0", asks.at(-1)?.total ?? "0"].sort(compare)[1] ?? "0";
  const bestBid = book.bids[0]?.price;
  const bestAsk = book.asks[0]?.price;
  return (
    <section className="panel book" aria-label="Order book">
      <h2>
        Order book <small>seq {book.seq}</small>
      </h2>
      <div className="rows head">
        <span>Price ({market.quoteAsset})</span>
        <span>Quantity ({market.baseAsset})</span>
        <span>Total</span>
      </div>
      <Side rows={[...asks].reverse()} side="ask" {...{ market, deepest, onPrice }} />
      <p className="spread">
        {bestBid && bestAsk
          ? `Spread ${pretty(subtract(bestAsk, bestBid), market.tickSize)}`
          : "One side of the book is empty"}
      </p>
      <Side rows={bids} side="bid" {...{ market, deepest, onPrice }} />
    </section>
  );
}

interface Row {
  price: string;
  quantity: string;
  total: string;
}

function withTotals(levels: readonly LevelJson[]): Row[] {
  let total = "0";
  return levels.map(({ price = "0", quantity = "0" }) => {
    total = add(total, quantity);
    return { price, quantity, total };
  });
}

interface SideProps extends Props {
  rows: Row[];
  side: "bid" | "ask";
  deepest: string;
}

function Side({ rows, side, market, deepest, onPrice }: SideProps) {
  return (
    <ol className={side}>
      {rows.map(({ price, quantity, total }) => (
        <li key={price}>
          <button
            type="button"
            className="rows"
            title="Use this price"
            onClick={() => onPrice(price)}
            style={{ backgroundSize: `${percent(total, deepest)}% 100%` }}
          >
            <span className={`number ${side === "bid" ? "up" : "down"}`}>
              {pretty(price, market.tickSize)}
            </span>
            <span className="number">{pretty(quantity, market.lotSize)}</span>
            <span className="number">{pretty(total, market.lotSize)}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}
