import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import { type Book, type Row, withTotals } from "../lib/book";
import { pretty } from "../lib/decimal";
import { screenNumber } from "../lib/screen";

const WIDTH = 300;
const HEIGHT = 320;

/** What is for sale and what is wanted, added up outwards from the middle. */
export function DepthChart({ book, market }: { book: Book; market: MarketJson }) {
  const bids = withTotals(book.bids);
  const asks = withTotals(book.asks);
  if (bids.length === 0 || asks.length === 0) {
    return <p className="notice">One side of the book is empty.</p>;
  }
  const low = bids.at(-1)?.price;
  const high = asks.at(-1)?.price;
  const [from, to] = [screenNumber(low) ?? 0, screenNumber(high) ?? 1];
  // Beyond the last level there is as much as at it, as far as is known.
  const beyond = (to - from) * 0.04;
  const totals = [bids.at(-1)?.total, asks.at(-1)?.total].map((total) => screenNumber(total) ?? 0);
  const scale = {
    from: from - beyond,
    to: to + beyond,
    deepest: Math.max(...totals) || 1,
  };
  return (
    <figure className="depth">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label="Depth of the book" preserveAspectRatio="none">
        <path className="bid" d={area(bids, scale, 0)} />
        <path className="ask" d={area(asks, scale, WIDTH)} />
      </svg>
      <figcaption className="number">
        <span>{pretty(low, market.tickSize)}</span>
        <span>{pretty(book.bids[0]?.price, market.tickSize)}</span>
        <span>{pretty(high, market.tickSize)}</span>
      </figcaption>
      <p className="hint">
        {pretty(bids.at(-1)?.total, market.lotSize)} {market.baseAsset} wanted,{" "}
        {pretty(asks.at(-1)?.total, market.lotSize)} {market.baseAsset} offered, within these prices.
      </p>
    </figure>
  );
}

interface Scale {
  from: number;
  to: number;
  deepest: number;
}

/** A staircase from the best price out to `edge`, closed along the bottom. */
function area(rows: readonly Row[], { from, to, deepest }: Scale, edge: number): string {
  const x = (row: Row) => (((screenNumber(row.price) ?? 0) - from) * WIDTH) / (to - from || 1);
  const y = (row: Row) => HEIGHT - ((screenNumber(row.total) ?? 0) * (HEIGHT - 8)) / deepest;
  const steps = rows.map((row) => `H${x(row).toFixed(1)}V${y(row).toFixed(1)}`).join("");
  const first = rows[0];
  return first ? `M${x(first).toFixed(1)},${HEIGHT}${steps}H${edge}V${HEIGHT}Z` : "";
}
