/** From what a person typed to an order, and what is wrong with it. Pure. */
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PlaceOcoRequestJson, PlaceOrderRequestJson } from "../gen/tidebook/engine/v1/order_pb";
import type {
  OrderTypeJson,
  SelfTradePreventionJson,
  SideJson,
  TimeInForceJson,
  TriggerSourceJson,
} from "../gen/tidebook/engine/v1/types_pb";
import {
  add,
  bpsOfPercent,
  compare,
  divide,
  floorTo,
  isMultiple,
  isZero,
  multiply,
  parse,
} from "./decimal";
import { isBuy } from "./names";
import { screenCount } from "./screen";

/** A market order's default protection: it may trade 5 % from the best price. */
const MARKET_SLACK = "0.05";

/** OCO is two orders on the wire and one choice on the page. */
export type FormType = OrderTypeJson | "OCO";

/** What the form holds; every decimal as typed. */
export interface Draft {
  side: SideJson;
  type: FormType;
  price: string;
  quantity: string;
  /** MARKET: the amount is of the quote asset. */
  byQuote: boolean;
  trigger: string;
  /** OCO: limit price of the stop; empty for a market stop. */
  stopPrice: string;
  trailingPercent: string;
  triggerSource: TriggerSourceJson;
  timeInForce: TimeInForceJson;
  /** GTD: local date and time as the browser's field gives it. */
  expires: string;
  postOnly: boolean;
  reduceOnly: boolean;
  display: string;
  selfTrade: SelfTradePreventionJson;
  slippagePercent: string;
}

export const BLANK: Draft = {
  side: "SIDE_BUY",
  type: "ORDER_TYPE_LIMIT",
  price: "",
  quantity: "",
  byQuote: false,
  trigger: "",
  stopPrice: "",
  trailingPercent: "1",
  triggerSource: "TRIGGER_SOURCE_LAST",
  timeInForce: "TIME_IN_FORCE_GTC",
  expires: "",
  postOnly: false,
  reduceOnly: false,
  display: "",
  selfTrade: "SELF_TRADE_PREVENTION_CANCEL_TAKER",
  slippagePercent: "",
};

const PRICED = new Set<FormType>(["ORDER_TYPE_LIMIT", "ORDER_TYPE_STOP_LIMIT", "ORDER_TYPE_TAKE_PROFIT_LIMIT", "OCO"]);
const TRIGGERED = new Set<FormType>([
  "ORDER_TYPE_STOP_MARKET",
  "ORDER_TYPE_STOP_LIMIT",
  "ORDER_TYPE_TAKE_PROFIT_MARKET",
  "ORDER_TYPE_TAKE_PROFIT_LIMIT",
  "OCO",
]);

export const hasPrice = (type: FormType): boolean => PRICED.has(type);
export const hasTrigger = (type: FormType): boolean => TRIGGERED.has(type);
export const isTrailing = (type: FormType): boolean => type === "ORDER_TYPE_TRAILING_STOP";
export const waits = (type: FormType): boolean => hasTrigger(type) || isTrailing(type);

/** The order as the contract has it, without the client's id. */
export function toOrder(draft: Draft, market: MarketJson): PlaceOrderRequestJson {
  const { type, side, price, quantity } = draft;
  const order: PlaceOrderRequestJson = { market: market.market, side, type: type === "OCO" ? "ORDER_TYPE_LIMIT" : type };
  if (type === "ORDER_TYPE_MARKET" && draft.byQuote) order.quoteAmount = quantity;
  else order.quantity = quantity;
  if (hasPrice(type)) {
    order.price = price;
    order.timeInForce = draft.timeInForce;
    if (draft.timeInForce === "TIME_IN_FORCE_GTD") order.expireTime = new Date(draft.expires).toISOString();
    if (draft.postOnly) order.postOnly = true;
    if (draft.display) order.displayQuantity = draft.display;
  } else if (draft.slippagePercent) {
    order.maxSlippageBps = screenCount(bpsOfPercent(draft.slippagePercent) ?? 0n);
  }
  if (waits(type) && type !== "OCO") {
    if (isTrailing(type)) order.trailingBps = screenCount(bpsOfPercent(draft.trailingPercent) ?? 0n);
    else order.triggerPrice = draft.trigger;
    order.triggerSource = draft.triggerSource;
  }
  if (draft.reduceOnly) order.reduceOnly = true;
  if (draft.selfTrade !== BLANK.selfTrade) order.selfTradePrevention = draft.selfTrade;
  return order;
}

/** The pair: a limit order at the good price, a stop at the bad one. */
export function toOco(draft: Draft, market: MarketJson): PlaceOcoRequestJson {
  const { side, quantity, stopPrice, trigger, triggerSource } = draft;
  const second: PlaceOrderRequestJson = {
    market: market.market,
    side,
    quantity,
    type: stopPrice ? "ORDER_TYPE_STOP_LIMIT" : "ORDER_TYPE_STOP_MARKET",
    triggerPrice: trigger,
    triggerSource,
  };
  if (stopPrice) second.price = stopPrice;
  if (draft.reduceOnly) second.reduceOnly = true;
  return { first: toOrder(draft, market), second };
}

/** The pair with a client id for each, made of one of 32 characters. */
export function withIds({ first, second }: PlaceOcoRequestJson, id: string): PlaceOcoRequestJson {
  return { first: { ...first, clientOrderId: `${id}-1` }, second: { ...second, clientOrderId: `${id}-2` } };
}

/** Everything that the order cannot do without is there. */
export function isComplete(draft: Draft): boolean {
  const { type } = draft;
  return (
    draft.quantity !== "" &&
    (!hasPrice(type) || draft.price !== "") &&
    (!hasTrigger(type) || draft.trigger !== "") &&
    (!isTrailing(type) || draft.trailingPercent !== "") &&
    (!hasPrice(type) || draft.timeInForce !== "TIME_IN_FORCE_GTD" || draft.expires !== "")
  );
}

/** What is wrong with a field, named as in the contract; a pair's stop limit price is `stop_price`. */
export interface Wrong {
  readonly field: string;
  readonly text: string;
}

/** What is wrong, in the order of the form. Empty fields are not wrong yet. */
export function problemsOf(draft: Draft, market: MarketJson): readonly Wrong[] {
  const { type } = draft;
  const tick = market.tickSize ?? "1";
  const lot = market.lotSize ?? "1";
  const byQuote = draft.byQuote && type === "ORDER_TYPE_MARKET";
  const bps = (text: string) => (text && bpsOfPercent(text) === null ? "A percentage with at most two decimals." : "");
  const checks: readonly (readonly [string, boolean, string])[] = [
    ["trigger_price", hasTrigger(type), stepProblem(draft.trigger, tick)],
    ["stop_price", type === "OCO", stepProblem(draft.stopPrice, tick)],
    ["trailing_bps", isTrailing(type), bps(draft.trailingPercent)],
    ["price", hasPrice(type), stepProblem(draft.price, tick)],
    ["quantity", true, byQuote ? numberProblem(draft.quantity) : stepProblem(draft.quantity, lot)],
    ["display_quantity", hasPrice(type), stepProblem(draft.display, lot)],
    ["max_slippage_bps", !hasPrice(type), bps(draft.slippagePercent)],
  ];
  return checks.flatMap(([field, shown, text]) => (shown && text !== "" ? [{ field, text }] : []));
}

/** What is wrong with a typed amount above zero; "" when nothing is. */
export function numberProblem(text: string): string {
  if (!text) return "";
  if (text.includes(",")) return "A comma can mean two things here: write 64123 or 64.123.";
  if (!parse(text) || text.startsWith("-")) return "Not a plain number such as 12.5.";
  return isZero(text) ? "It is zero." : "";
}

/** The same for an amount in steps. */
export function stepProblem(text: string, step: string): string {
  return numberProblem(text) || (text && !isMultiple(text, step) ? `It must be a multiple of ${step}.` : "");
}

/** Where the order is held at: its own price, where it is triggered, or the best of the book. */
function expectedPrice(draft: Draft, near: string): string {
  if (hasPrice(draft.type) && parse(draft.price)) return draft.price;
  if (hasTrigger(draft.type) && parse(draft.trigger)) return draft.trigger;
  if (!isTrailing(draft.type) || !parse(draft.trailingPercent) || !parse(near)) return near;
  return multiply(near, add("1", divide(draft.trailingPercent, "100", 18)));
}

/** A market buy is best said in the asset that it spends: then all of it can be spent, wherever it trades. */
export const spendsQuote = (draft: Draft, market: MarketJson): boolean =>
  draft.type === "ORDER_TYPE_MARKET" && isBuy(draft.side) && market.kind === "MARKET_KIND_SPOT";

/** A part of what is free, as a quantity of whole lots that leaves room for the worst fee. */
export function share(free: string, percent: string, draft: Draft, market: MarketJson, near: string, leverage: string): string {
  const part = divide(multiply(free, percent), "100", 18);
  const byQuote = draft.byQuote && draft.type === "ORDER_TYPE_MARKET";
  if (byQuote && isBuy(draft.side)) return floorTo(part, "0.01");
  const margin = market.kind === "MARKET_KIND_MARGIN";
  if (!margin && !isBuy(draft.side)) return floorTo(part, market.lotSize ?? "1");
  const price = expectedPrice(draft, near);
  if (!parse(price) || isZero(price)) return "";
  // A market buy is held at its protection price, which is somewhat above the best.
  const rate = (market.takerFeeBps ?? 0) > (market.makerFeeBps ?? 0) ? market.takerFeeBps : market.makerFeeBps;
  const slack = hasPrice(draft.type) ? "0" : MARKET_SLACK;
  const fee = divide(`${rate ?? 0}`, "10000", 18);
  // The fee is held on the protection price, too.
  const worst = add(add(fee, slack), multiply(fee, slack));
  const perUnit = add(margin ? divide("1", leverage, 18) : "1", worst);
  const quantity = floorTo(divide(part, multiply(price, perUnit), 18), market.lotSize ?? "1");
  return compare(quantity, "0") > 0 ? quantity : "0";
}
