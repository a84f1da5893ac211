/** What happened to an account while its owner looked elsewhere, in a sentence each. Pure. */
import type { FillJson, OrderJson, WatchAccountResponseJson } from "../gen/tidebook/engine/v1/order_pb";
import type { CfdJson, LiquidationJson, PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import type { SideJson } from "../gen/tidebook/engine/v1/types_pb";
import { absolute, isNegative, isZero, pretty } from "./decimal";
import { isBuy, marketTitle, ORDER_TYPES, words } from "./names";
import { ending } from "./reasons";

// Whoever ends an order knows it already.
const BY_THE_OWNER = new Set(["REASON_UNSPECIFIED", "REASON_CANCELLED_BY_USER", "REASON_OCO_CANCELLED", ""]);
const ENDED = new Set(["ORDER_STATUS_CANCELLED", "ORDER_STATUS_EXPIRED", "ORDER_STATUS_REJECTED"]);

/**
 * The news of one message. What an order does at once is the answer to whoever placed it; here is what
 * orders of `known`, those that rested or waited, do later.
 */
export function happened(known: ReadonlyMap<string, OrderJson> | undefined, news: WatchAccountResponseJson): string[] {
  if (news.snapshot) return [];
  const orders = news.orders ?? [];
  return [
    ...orders.flatMap((order) => ofOrder(known?.get(order.orderId ?? ""), order)),
    ...orders.flatMap((order) =>
      known?.has(order.orderId ?? "") ? ofFills(order, news.fills ?? []) : [],
    ),
    ...(news.positions ?? []).filter(({ market }) => !liquidatedIn(news, market)).flatMap(ofPosition),
    ...(news.cfds ?? []).filter(({ closeReason }) => closeReason !== LIQUIDATED).flatMap(ofCfd),
  ];
}

/** What was liquidated, a sentence each: at which price, how much, and what is left of it. */
export function liquidated(news: WatchAccountResponseJson): string[] {
  if (news.snapshot) return [];
  return (news.liquidations ?? []).map(ofLiquidation);
}

const LIQUIDATED = "CFD_CLOSE_REASON_LIQUIDATION";

/** Receipts are of positions and of CFDs. */
const ofMargin = ({ cfdId = "0" }: LiquidationJson): boolean => cfdId === "0";

export const liquidatedSide = (receipt: LiquidationJson): SideJson | undefined =>
  ofMargin(receipt) ? (isNegative(receipt.quantity) ? "SIDE_SELL" : "SIDE_BUY") : receipt.side;

/** What a position had of the base asset, and what a CFD was for in the quote asset. */
export const liquidatedSize = (receipt: LiquidationJson): string | undefined =>
  ofMargin(receipt) ? absolute(receipt.quantity ?? "0") : receipt.entryNotional;

function liquidatedIn(news: WatchAccountResponseJson, market: string | undefined): boolean {
  return (news.liquidations ?? []).some((receipt) => ofMargin(receipt) && receipt.market === market);
}

function ofLiquidation(receipt: LiquidationJson): string {
  const { market, cfdId, markPrice, returned, margin } = receipt;
  const side = isBuy(liquidatedSide(receipt)) ? "long" : "short";
  const size = pretty(liquidatedSize(receipt));
  const what = ofMargin(receipt)
    ? `${marketTitle(market)}: your ${side} position of ${size} was liquidated at a mark price of`
    : `${marketTitle(market)} ${cfdId}, ${side} for ${size}, was liquidated at`;
  return `${what} ${pretty(markPrice)}. Of its margin of ${pretty(margin)}, ${pretty(returned || "0")} came back.`;
}

function nameOf(order: OrderJson): string {
  return `${ORDER_TYPES[order.type ?? ""] ?? "Order"} ${order.orderId} in ${marketTitle(order.market)}`;
}

function ofOrder(before: OrderJson | undefined, order: OrderJson): string[] {
  if (before === undefined) return [];
  const fired = before.status === "ORDER_STATUS_UNTRIGGERED" && order.status !== before.status && !ENDED.has(order.status ?? "");
  if (fired) return [`${nameOf(order)} was triggered.`];
  const reason = order.closeReason ?? "";
  if (!ENDED.has(order.status ?? "") || BY_THE_OWNER.has(reason)) return [];
  return [`${nameOf(order)} ended: ${ending(reason)}.`];
}

function ofFills(order: OrderJson, fills: readonly FillJson[]): string[] {
  return fills
    .filter((fill) => fill.orderId === order.orderId)
    .map((fill) => {
      const side = isBuy(fill.side) ? "bought" : "sold";
      return `${marketTitle(fill.market)}: ${side} ${pretty(fill.quantity)} at ${pretty(fill.price)}.`;
    });
}

const signed = (amount = "0"): string => `${isNegative(amount) ? "" : "+"}${pretty(amount || "0")}`;

function ofPosition(position: PositionJson): string[] {
  if (!isZero(position.quantity || "0")) return [];
  return [`${marketTitle(position.market)}: your position is closed, profit ${signed(position.realisedPnl)}.`];
}

function ofCfd(cfd: CfdJson): string[] {
  if (!cfd.closeTime) return [];
  const reason = words(cfd.closeReason, "CFD_CLOSE_REASON_");
  const by = reason === "user" ? "" : ` by ${reason}`;
  return [`${marketTitle(cfd.market)} ${cfd.cfdId} closed${by} at ${pretty(cfd.exitPrice)}, profit ${signed(cfd.realisedPnl)}.`];
}
