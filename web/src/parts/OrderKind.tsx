import type { OrderJson } from "../gen/tidebook/engine/v1/order_pb";
import { pretty } from "../lib/decimal";
import { dateTime, ORDER_TYPES } from "../lib/names";

/** An order's type, and small beside it what is special about it. */
export function OrderKind({ order, trigger = false }: { order: OrderJson; trigger?: boolean }) {
  const special = [
    trigger && order.triggerPrice && `at ${pretty(order.triggerPrice)}`,
    order.displayQuantity && `iceberg, shows ${pretty(order.displayQuantity)}`,
    order.postOnly && "post only",
    order.reduceOnly && "reduce only",
    (order.ocoOrderId ?? "0") !== "0" && "OCO",
    order.expireTime && `until ${dateTime(order.expireTime)}`,
  ].filter(Boolean);
  return (
    <>
      {ORDER_TYPES[order.type ?? ""]} {special.length > 0 && <small>{special.join(" · ")}</small>}
    </>
  );
}
