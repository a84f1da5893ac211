/** The stop and the take profit of a position: reduce-only orders that wait. Pure. */
import type { OrderJson, PlaceOrderRequestJson } from "../gen/tidebook/engine/v1/order_pb";
import type { PositionJson } from "../gen/tidebook/engine/v1/position_pb";
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
  const kept = Boolean(have.stop) === Boolean(stop) && Boolean(have.profit) === Boolean(profit);
  const quantity = absolute(position.quantity ?? "0");
  if (kept) {
    const change = (order: OrderJson | undefined, triggerPrice: string) => {
      const moved = order && compare(order.triggerPrice || "0", triggerPrice) !== 0;
      const resized = order && compare(order.quantity || "0", quantity) !== 0;
      if (!moved && !resized) return [];
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

/** One of a pair ends the other too. */
function cancelled({ stop, profit }: Exits): string[] {
  const ids = [stop, profit].flatMap((order) => (order?.orderId ? [order.orderId] : []));
  return stop?.ocoOrderId && stop.ocoOrderId === profit?.orderId ? ids.slice(0, 1) : ids;
}
