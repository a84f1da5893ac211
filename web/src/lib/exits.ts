/** The stop and the take profit of a position: reduce-only orders that wait. Pure. */
import type { OrderJson, PlaceOrderRequestJson } from "../gen/tidebook/engine/v1/order_pb";
import type { PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import { ApiError } from "./api";
import { absolute, compare, isNegative } from "./decimal";

export interface Exits {
  readonly stop?: OrderJson;
  readonly profit?: OrderJson;
}

const STOPS = new Set(["ORDER_TYPE_STOP_MARKET", "ORDER_TYPE_STOP_LIMIT"]);
const PROFITS = new Set(["ORDER_TYPE_TAKE_PROFIT_MARKET", "ORDER_TYPE_TAKE_PROFIT_LIMIT"]);

const closing = (position: PositionJson) => (isNegative(position.quantity) ? "SIDE_BUY" : "SIDE_SELL");

/** Those of `orders` that would end the position; the newest of each kind. */
export function exitsOf(position: PositionJson, orders: readonly OrderJson[]): Exits {
  const waiting = orders.filter(
    (order) =>
      order.market === position.market &&
      order.reduceOnly &&
      order.side === closing(position) &&
      order.status === "ORDER_STATUS_UNTRIGGERED",
  );
  return {
    stop: waiting.find((order) => STOPS.has(order.type ?? "")),
    profit: waiting.find((order) => PROFITS.has(order.type ?? "")),
  };
}

/** What has to be done, in this order, so that the position is never left without the stop it had. */
export interface Plan {
  readonly amend: readonly { orderId: string; triggerPrice?: string; quantity?: string }[];
  readonly place: readonly PlaceOrderRequestJson[];
  readonly cancel: readonly string[];
}

/** From what there is to what is wished; empty texts wish for none. */
export function planExits(position: PositionJson, have: Exits, stop: string, profit: string): Plan {
  const same = Boolean(have.stop) === Boolean(stop) && Boolean(have.profit) === Boolean(profit);
  const quantity = absolute(position.quantity ?? "0");
  const isResized = (order: OrderJson | undefined) => order !== undefined && compare(order.quantity || "0", quantity) !== 0;
  // The quantity of a pair cannot be changed.
  const kept = same && !(isPair(have) && isResized(have.stop));
  if (kept) {
    const change = (order: OrderJson | undefined, triggerPrice: string) => {
      const moved = order && compare(order.triggerPrice || "0", triggerPrice) !== 0;
      const resized = isResized(order);
      if (!order || (!moved && !resized)) return [];
      return [{ orderId: order.orderId ?? "", ...(moved && { triggerPrice }), ...(resized && { quantity }) }];
    };
    return { amend: [...change(have.profit, profit), ...change(have.stop, stop)], place: [], cancel: [] };
  }
  const order = (type: "ORDER_TYPE_TAKE_PROFIT_MARKET" | "ORDER_TYPE_STOP_MARKET", triggerPrice: string) => ({
    market: position.market,
    side: closing(position),
    type,
    quantity,
    triggerPrice,
    triggerSource: "TRIGGER_SOURCE_MARK" as const,
    reduceOnly: true,
  }) as const;
  return {
    amend: [],
    place: [
      ...(profit ? [order("ORDER_TYPE_TAKE_PROFIT_MARKET", profit)] : []),
      ...(stop ? [order("ORDER_TYPE_STOP_MARKET", stop)] : []),
    ],
    cancel: cancelled(have),
  };
}

const isPair = ({ stop, profit }: Exits): boolean => Boolean(stop?.ocoOrderId) && stop?.ocoOrderId === profit?.orderId;

/** One of a pair ends the other too. */
function cancelled(have: Exits): string[] {
  const ids = [have.stop, have.profit].flatMap((order) => (order?.orderId ? [order.orderId] : []));
  return isPair(have) ? ids.slice(0, 1) : ids;
}

/** A refusal of an order, or a pair, for its trigger price: about `stop_loss` or `take_profit` then. */
export function refusedExit(error: unknown, orders: readonly Pick<PlaceOrderRequestJson, "type">[]): unknown {
  if (!(error instanceof ApiError)) return error;
  const path = error.field.split(".");
  if (path.at(-1) !== "trigger_price") return error;
  const order = orders[path[0] === "second" ? 1 : 0];
  return error.about(PROFITS.has(order?.type ?? "") ? "take_profit" : "stop_loss");
}
