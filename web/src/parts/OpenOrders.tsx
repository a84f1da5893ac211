import { useMutation } from "@tanstack/react-query";
import { memo, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { OrderJson } from "../gen/tidebook/engine/v1/order_pb";
import { patch, remove } from "../lib/api";
import { percentOfBps, pretty } from "../lib/decimal";
import { clock, marketTitle } from "../lib/names";
import { stepProblem } from "../lib/order";
import { DecimalField, SideName, Table } from "./Basics";
import { EditDialog } from "./EditDialog";
import { OrderKind } from "./OrderKind";
import { corrected, Problem, refusalOf } from "./Problem";
import { Trace } from "./Trace";

interface Props {
  orders: readonly OrderJson[];
  ready: boolean;
  byName: Record<string, MarketJson>;
}

const HEAD = ["Time", "Market", "Type", "Side", ">Price", ">Trigger", ">Filled / quantity", "!Actions"];

export const OpenOrders = memo(function OpenOrders({ orders, ready, byName }: Props) {
  const cancel = useMutation({ mutationFn: (id: string) => remove(`/v1/orders/${id}`) });
  const cancelAll = useMutation({ mutationFn: () => remove("/v1/orders") });
  const [amending, setAmending] = useState<OrderJson | null>(null);
  const [tracing, setTracing] = useState<string | null>(null);
  if (!ready) return <p className="notice">Loading…</p>;
  return (
    <>
      {orders.length === 0 && <p className="notice">No open orders.</p>}
      {orders.length > 0 && (
        <Table label="Open orders" head={HEAD}>
          {orders.map((order) => (
            <tr key={order.orderId}>
              <td>{clock(order.createTime)}</td>
              <td>{marketTitle(order.market)}</td>
              <td>
                <OrderKind order={order} />
              </td>
              <td>
                <SideName side={order.side} />
              </td>
              <td className="number">{order.price ? pretty(order.price, byName[order.market ?? ""]?.tickSize) : "market"}</td>
              <td className="number">
                {pretty(order.triggerPrice, byName[order.market ?? ""]?.tickSize)}
                {order.trailingBps ? <small> {percentOfBps(order.trailingBps, false)}</small> : null}
              </td>
              <td className="number">
                {pretty(order.filledQuantity || "0")} / {pretty(order.quantity || order.quoteAmount)}
              </td>
              <td className="actions">
                <button type="button" className="quiet" aria-label={`Amend order ${order.orderId}`} onClick={() => setAmending(order)}>
                  Amend
                </button>
                <button type="button" className="quiet" aria-label={`Trace order ${order.orderId}`} onClick={() => setTracing(order.orderId ?? "")}>
                  Trace
                </button>
                <button
                  type="button"
                  className="quiet"
                  aria-label={`Cancel order ${order.orderId}`}
                  disabled={cancel.isPending && cancel.variables === order.orderId}
                  onClick={() => cancel.mutate(order.orderId ?? "")}
                >
                  Cancel
                </button>
              </td>
            </tr>
          ))}
        </Table>
      )}
      {orders.length > 1 && (
        <button type="button" className="quiet" disabled={cancelAll.isPending} onClick={() => cancelAll.mutate()}>
          Cancel all {orders.length} orders
        </button>
      )}
      <Problem error={cancel.error ?? cancelAll.error} />
      {amending && <Amend order={amending} market={byName[amending.market ?? ""]} onClose={() => setAmending(null)} />}
      {tracing && <Trace orderId={tracing} onClose={() => setTracing(null)} />}
    </>
  );
});

interface AmendProps {
  order: OrderJson;
  market: MarketJson | undefined;
  onClose: () => void;
}

function Amend({ order, market, onClose }: AmendProps) {
  const [price, setPrice] = useState(order.price ?? "");
  const [quantity, setQuantity] = useState(order.quantity ?? "");
  const [trigger, setTrigger] = useState(order.triggerPrice ?? "");
  const amend = useMutation({
    mutationFn: () =>
      patch(`/v1/orders/${order.orderId}`, {
        ...(price !== order.price && { price }),
        ...(quantity !== order.quantity && { quantity }),
        ...(trigger !== (order.triggerPrice ?? "") && { triggerPrice: trigger }),
      }),
    onSuccess: onClose,
  });
  const tick = market?.tickSize ?? "1";
  const fields = [
    { name: "price", label: "New price", value: price, set: setPrice, step: tick, shown: Boolean(order.price) },
    {
      name: "trigger_price",
      label: "New trigger price",
      value: trigger,
      set: setTrigger,
      step: tick,
      // One that follows the price is not the owner's to set.
      shown: Boolean(order.triggerPrice) && !order.trailingBps,
    },
    {
      name: "quantity",
      label: "New quantity",
      value: quantity,
      set: setQuantity,
      step: market?.lotSize ?? "1",
      // The two of a pair keep theirs.
      shown: (order.ocoOrderId ?? "0") === "0",
    },
  ].filter(({ shown }) => shown);
  const good = fields.every(({ value, step }) => stepProblem(value, step) === "");
  return (
    <EditDialog
      title={`Amend order ${order.orderId}`}
      send={amend}
      fields={fields.map(({ name }) => name)}
      button="Change the order"
      good={good}
      onClose={onClose}
    >
      {fields.map(({ name, label, value, set, step }) => (
        <DecimalField
          key={name}
          label={label}
          hint={name === "quantity" ? "what is filled included" : `steps of ${step}`}
          suffix={name === "quantity" ? market?.baseAsset : market?.quoteAsset}
          required
          value={value}
          problem={stepProblem(value, step) || refusalOf(amend.error, name)}
          onChange={corrected(amend, set)}
        />
      ))}
      <p className="hint">A smaller quantity keeps its place in the queue; a new price or a larger one goes to the back.</p>
    </EditDialog>
  );
}
