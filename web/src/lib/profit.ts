/** Profit at a price, by the exchange's own formulas (docs/margin.md, docs/cfd.md), for live display. */
import type { CfdJson, PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import type { PriceJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { absolute, compare, cut, decimalsOf, divide, isNegative, multiply, negate, pretty, subtract } from "./decimal";
import { isBuy } from "./names";

/** Decimals of what is worked out here; the exchange's quote assets have no more. */
const DECIMALS = 8;

/** Quantity at the mark price less what was paid for it; for a short position the other way round. */
export function positionProfit(position: PositionJson, mark: string): string {
  const { quantity = "0", entryNotional = "0" } = position;
  const worth = multiply(absolute(quantity), mark);
  const paid = absolute(entryNotional);
  return isNegative(quantity) ? subtract(paid, worth) : subtract(worth, paid);
}

/** The price at which the exchange ends it, to the tick, in words. */
export function liquidationText(price: string | undefined, tick: string | undefined): string {
  return price ? pretty(cut(price, decimalsOf(tick)), tick) : "none";
}

export function entryPrice({ quantity = "0", entryNotional = "0" }: PositionJson, decimals: number): string {
  const size = absolute(quantity);
  return compare(size, "0") === 0 ? "0" : divide(absolute(entryNotional), size, decimals);
}

/** What the house pays, and what it asks: of a feed that only knows trades both are its index. Empty without one. */
export const bidOf = (price: PriceJson | undefined): string => price?.bid || price?.price || "";
export const askOf = (price: PriceJson | undefined): string => price?.ask || price?.price || "";

/** A long CFD closes at the bid, a short one at the ask; at what the exchange last said while there is none. */
export function cfdExit(cfd: CfdJson, price: PriceJson | undefined): string {
  return (isBuy(cfd.side) ? bidOf(price) : askOf(price)) || cfd.exitPrice || "";
}

/** floor(side x notional x (exit - entry) / entry), but never more lost than the margin. */
export function cfdProfit(cfd: CfdJson, exit: string): string {
  const { notional = "0", entryPrice: entry = "0", margin = "0" } = cfd;
  if (exit === "" || compare(entry, "0") === 0) return "0";
  const move = isBuy(cfd.side) ? subtract(exit, entry) : subtract(entry, exit);
  const exact = multiply(notional, move);
  let profit = divide(exact, entry, DECIMALS);
  // Division cuts towards zero; the exchange rounds down, against the client.
  if (isNegative(exact) && compare(multiply(profit, entry), exact) > 0) {
    profit = subtract(profit, "0.00000001");
  }
  const worst = negate(margin);
  return compare(profit, worst) < 0 ? worst : profit;
}
