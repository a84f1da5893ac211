import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import type { TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { post } from "../lib/api";
import { absolute, basisPoints, cut, decimalsOf, isNegative, percentOfBps, pretty } from "../lib/decimal";
import type { ByMarket } from "../lib/hooks";
import { marketTitle } from "../lib/names";
import { entryPrice, positionProfit } from "../lib/profit";
import { DecimalField, Dialog, Profit, SideName, Table } from "./Basics";
import { Problem } from "./Problem";

interface Props {
  positions: readonly PositionJson[];
  byName: Record<string, MarketJson>;
  tickers: ByMarket<TickerJson>;
}

const HEAD = ["Market", "Side", ">Quantity", ">Entry", ">Mark", ">Liquidation", ">Margin", ">Profit (return)", "!Actions"];

export function Positions({ positions, byName, tickers }: Props) {
  const close = useMutation({
    mutationFn: (market: string) =>
      post(`/v1/positions/${market}:close`, { clientOrderId: crypto.randomUUID() }),
  });
  const [editing, setEditing] = useState<Editing | null>(null);
  if (positions.length === 0) {
    return <p className="notice">No open positions. A margin market opens one with the first fill.</p>;
  }
  return (
    <>
      <Table label="Positions" head={HEAD}>
        {positions.map((position) => {
          const { market = "", quantity = "0", margin = "0" } = position;
          const tick = byName[market]?.tickSize ?? "1";
          const mark = tickers[market]?.markPrice || position.markPrice || "";
          const profit = mark ? positionProfit(position, mark) : position.unrealisedPnl || "0";
          return (
            <tr key={market}>
              <td>
                {marketTitle(market)} <small>{position.leverage}x</small>
              </td>
              <td>
                <SideName side={isNegative(quantity) ? "SIDE_SELL" : "SIDE_BUY"} long />
              </td>
              <td className="number">{pretty(absolute(quantity))}</td>
              <td className="number">{pretty(entryPrice(position, decimalsOf(tick)), tick)}</td>
              <td className="number">{pretty(mark, tick)}</td>
              <td className="number">
                {position.liquidationPrice ? pretty(cut(position.liquidationPrice, decimalsOf(tick)), tick) : "none"}
              </td>
              <td className="number">{pretty(cut(margin, 2), "0.01")}</td>
              <td className="number">
                <Profit amount={cut(profit, 2)} step="0.01" />{" "}
                <small>({percentOfBps(basisPoints(profit, margin))})</small>
              </td>
              <td className="actions">
                <button type="button" className="quiet" onClick={() => setEditing({ what: "margin", position })}>
                  Add margin
                </button>
                <button type="button" className="quiet" onClick={() => setEditing({ what: "part", position })}>
                  Close part
                </button>
                <button type="button" className="quiet" onClick={() => setEditing({ what: "exits", position })}>
                  Stop / profit
                </button>
                <button
                  type="button"
                  className="quiet"
                  aria-label={`Close position ${market}`}
                  disabled={close.isPending}
                  onClick={() => close.mutate(market)}
                >
                  Close
                </button>
              </td>
            </tr>
          );
        })}
      </Table>
      <Problem error={close.error} />
      {editing?.what === "margin" && <AddMargin {...editing} onClose={() => setEditing(null)} />}
      {editing?.what === "part" && <ClosePart {...editing} onClose={() => setEditing(null)} />}
      {editing?.what === "exits" && <Exits {...editing} onClose={() => setEditing(null)} />}
    </>
  );
}

interface Editing {
  what: "margin" | "part" | "exits";
  position: PositionJson;
}

interface EditProps {
  position: PositionJson;
  onClose: () => void;
}

function AddMargin({ position, onClose }: EditProps) {
  const [amount, setAmount] = useState("");
  const send = useMutation({
    mutationFn: () =>
      post(`/v1/positions/${position.market}:addMargin`, { amount, requestId: crypto.randomUUID() }),
    onSuccess: onClose,
  });
  return (
    <Dialog title="Add margin" onClose={onClose}>
      <form
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          send.mutate();
        }}
      >
        <p className="hint">More margin moves the liquidation price away.</p>
        <DecimalField label="Amount" value={amount} onChange={setAmount} required />
        <Problem error={send.error} />
        <button type="submit" className="primary" disabled={send.isPending}>
          Add
        </button>
      </form>
    </Dialog>
  );
}

function ClosePart({ position, onClose }: EditProps) {
  const [quantity, setQuantity] = useState(absolute(position.quantity ?? "0"));
  const send = useMutation({
    mutationFn: () =>
      post(`/v1/positions/${position.market}:close`, { quantity, clientOrderId: crypto.randomUUID() }),
    onSuccess: onClose,
  });
  return (
    <Dialog title="Close at market" onClose={onClose}>
      <form
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          send.mutate();
        }}
      >
        <DecimalField label="Quantity" value={quantity} onChange={setQuantity} required />
        <Problem error={send.error} />
        <button type="submit" className="primary" disabled={send.isPending}>
          Close it
        </button>
      </form>
    </Dialog>
  );
}

/** Reduce-only orders that end the position by themselves; they show among the open orders. */
function Exits({ position, onClose }: EditProps) {
  const [stop, setStop] = useState("");
  const [profit, setProfit] = useState("");
  const order = (type: string, triggerPrice: string) => ({
    market: position.market,
    side: isNegative(position.quantity) ? "SIDE_BUY" : "SIDE_SELL",
    type,
    quantity: absolute(position.quantity ?? "0"),
    triggerPrice,
    triggerSource: "TRIGGER_SOURCE_MARK",
    reduceOnly: true,
    clientOrderId: crypto.randomUUID(),
  });
  const send = useMutation({
    mutationFn: async () => {
      const first = order("ORDER_TYPE_TAKE_PROFIT_MARKET", profit);
      const second = order("ORDER_TYPE_STOP_MARKET", stop);
      if (stop && profit) await post("/v1/orders:oco", { first, second });
      else await post("/v1/orders", stop ? second : first);
    },
    onSuccess: onClose,
  });
  return (
    <Dialog title="Stop loss and take profit" onClose={onClose}>
      <form
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          send.mutate();
        }}
      >
        <p className="hint">
          Orders that close the whole position when the mark price is there. With both, one cancels the other.
        </p>
        <DecimalField label="Stop loss at" value={stop} onChange={setStop} />
        <DecimalField label="Take profit at" value={profit} onChange={setProfit} />
        <Problem error={send.error} />
        <button type="submit" className="primary" disabled={send.isPending || !(stop || profit)}>
          Place
        </button>
      </form>
    </Dialog>
  );
}
