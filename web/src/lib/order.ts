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

/** The first thing that is wrong, for people; "" when nothing is. Empty fields are not wrong yet. */
export function problemOf(draft: Draft, market: MarketJson): string {
  const { type } = draft;
  const tick = market.tickSize ?? "1";
  const lot = market.lotSize ?? "1";
  if (hasPrice(type)) {
    const found = stepProblem("price", draft.price, tick);
    if (found) return found;
  }
  if (hasTrigger(type)) {
    const found = stepProblem("trigger price", draft.trigger, tick);
    if (found) return found;
  }
  if (type === "OCO") {
    const found = stepProblem("stop's limit price", draft.stopPrice, tick);
    if (found) return found;
  }
  const byQuote = draft.byQuote && type === "ORDER_TYPE_MARKET";
  const amount = byQuote
    ? numberProblem("amount", draft.quantity)
    : stepProblem("quantity", draft.quantity, lot);
  if (amount) return amount;
  if (hasPrice(type) && draft.display) {
    const found = stepProblem("displayed quantity", draft.display, lot);
    if (found) return found;
  }
  if (isTrailing(type) && draft.trailingPercent && bpsOfPercent(draft.trailingPercent) === null) {
    return "The distance is a percentage with at most two decimals.";
  }
  if (!hasPrice(type) && draft.slippagePercent && bpsOfPercent(draft.slippagePercent) === null) {
    return "The slippage is a percentage with at most two decimals.";
  }
  return "";
}

function numberProblem(name: string, text: string): string {
  if (text && (!parse(text) || text.startsWith("-"))) return `The ${name} is not a plain number such as 12.5.`;
  return text && isZero(text) ? `The ${name} is zero.` : "";
}

function stepProblem(name: string, text: string, step: string): string {
  const found = numberProblem(name, text);
  if (found || !text) return found;
  return isMultiple(text, step) ? "" : `The ${name} is a multiple of ${step}.`;
}

/** A part of what is free, as a quantity of whole lots that leaves room for the worst fee. */
export function share(free: string, percent: string, draft: Draft, market: MarketJson, near: string, leverage: string): string {
  const part = divide(multiply(free, percent), "100", 18);
  const byQuote = draft.byQuote && draft.type === "ORDER_TYPE_MARKET";
  if (byQuote && isBuy(draft.side)) return floorTo(part, "0.01");
  const margin = market.kind === "MARKET_KIND_MARGIN";
  if (!margin && !isBuy(draft.side)) return floorTo(part, market.lotSize ?? "1");
  const price = hasPrice(draft.type) && parse(draft.price) ? draft.price : near;
  if (!parse(price) || isZero(price)) return "";
  // A market buy is held at its protection price, which is somewhat above the best.
  const rate = (market.takerFeeBps ?? 0) > (market.makerFeeBps ?? 0) ? market.takerFeeBps : market.makerFeeBps;
  const slack = hasPrice(draft.type) ? "0" : MARKET_SLACK;
  const fee = divide(`${rate ?? 0}`, "10000", 18);
  const perUnit = margin ? add(divide("1", leverage, 18), add(fee, slack)) : add("1", add(fee, slack));
  const quantity = floorTo(divide(part, multiply(price, perUnit), 18), market.lotSize ?? "1");
  return compare(quantity, "0") > 0 ? quantity : "0";
}
