import { useMutation } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import type { TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import type { OrderJson } from "../gen/tidebook/engine/v1/order_pb";
import { patch, post, remove } from "../lib/api";
import { absolute, cut, decimalsOf, isNegative, pretty } from "../lib/decimal";
import { exitsOf, type Exits as ExitOrders, planExits, refusedExit } from "../lib/exits";
import type { ByMarket } from "../lib/hooks";
import { useOnce } from "../lib/once";
import { numberProblem, stepProblem, withIds } from "../lib/order";
import { marketTitle } from "../lib/names";
import { entryPrice, liquidationText, positionProfit } from "../lib/profit";
import { DecimalField, Profit, Return, SideName, Table } from "./Basics";
import { EditDialog } from "./EditDialog";
import { corrected, Problem, refusalOf } from "./Problem";

interface Props {
  positions: readonly PositionJson[];
  orders: readonly OrderJson[];
  byName: Record<string, MarketJson>;
  tickers: ByMarket<TickerJson>;
}

const HEAD = ["Market", ">Quantity", ">Entry / mark", ">Liquidation", ">Margin", ">Profit (return)", "Stop / profit", "!Actions"];

export function Positions({ positions, orders, byName, tickers }: Props) {
  const once = useOnce();
  const close = useMutation({
    mutationFn: (market: string) =>
      once({ market }, (clientOrderId) => post(`/v1/positions/${market}:close`, { clientOrderId })),
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
          const exits = exitsOf(position, orders);
          const profit = mark ? positionProfit(position, mark) : position.unrealisedPnl || "0";
          return (
            <tr key={market}>
              <td>
                {marketTitle(market)}
                <div>
                  <SideName side={isNegative(quantity) ? "SIDE_SELL" : "SIDE_BUY"} long /> <small>{position.leverage}x</small>
                </div>
              </td>
              <td className="number">{pretty(absolute(quantity))}</td>
              <td className="number">
                {pretty(entryPrice(position, decimalsOf(tick)), tick)}
                <div>{pretty(mark, tick)}</div>
              </td>
              <td className="number">{liquidationText(position.liquidationPrice, tick)}</td>
              <td className="number">{pretty(cut(margin, 2), "0.01")}</td>
              <td className="number">
                <Return profit={profit} margin={margin} unit={byName[market]?.quoteAsset} />
              </td>
              <td>
                <button
                  type="button"
                  className="quiet exits"
                  onClick={() => setEditing({ what: "exits", position })}
                >
                  <span className="hidden">Stop loss and take profit of {market}: </span>
                  <Exit order={exits.stop} name="stop" tick={tick} />
                  <Exit order={exits.profit} name="profit" tick={tick} />
                </button>
              </td>
              <td className="actions">
                <button type="button" className="quiet" onClick={() => setEditing({ what: "margin", position })}>
                  Add margin
                </button>
                <button type="button" className="quiet" onClick={() => setEditing({ what: "part", position })}>
                  Close part
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
      {editing?.what === "part" && <ClosePart {...editing} market={byName[editing.position.market ?? ""]} onClose={() => setEditing(null)} />}
      {editing?.what === "exits" && (
        <Exits
          {...editing}
          market={byName[editing.position.market ?? ""]}
          mark={tickers[editing.position.market ?? ""]?.markPrice ?? ""}
          have={exitsOf(editing.position, orders)}
          onClose={() => setEditing(null)}
        />
      )}
    </>
  );
}

interface Editing {
  what: "margin" | "part" | "exits";
  position: PositionJson;
}

/** Where the position ends by itself, or that it does not. */
function Exit({ order, name, tick }: { order: OrderJson | undefined; name: string; tick: string }) {
  return (
    <span>
      {order ? pretty(order.triggerPrice, tick) : `no ${name}`}
    </span>
  );
}

interface EditProps {
  position: PositionJson;
  onClose: () => void;
}

function AddMargin({ position, onClose }: EditProps) {
  const [amount, setAmount] = useState("");
  const once = useOnce();
  const send = useMutation({
    mutationFn: () =>
      once({ amount }, (requestId) => post(`/v1/positions/${position.market}:addMargin`, { amount, requestId })),
    onSuccess: onClose,
  });
  const wrong = numberProblem(amount);
  return (
    <EditDialog
      title={`${marketTitle(position.market)}: add margin`}
      send={send}
      fields={["amount"]}
      button="Add"
      good={wrong === ""}
      onClose={onClose}
    >
      <p className="hint">More margin moves the liquidation price away.</p>
      <DecimalField
        label="Amount"
        value={amount}
        onChange={setAmount}
        required
        problem={wrong || refusalOf(send.error, "amount")}
      />
    </EditDialog>
  );
}

function ClosePart({ position, market, onClose }: EditProps & { market: MarketJson | undefined }) {
  const [quantity, setQuantity] = useState(absolute(position.quantity ?? "0"));
  const once = useOnce();
  const send = useMutation({
    mutationFn: () =>
      once({ quantity }, (clientOrderId) => post(`/v1/positions/${position.market}:close`, { quantity, clientOrderId })),
    onSuccess: onClose,
  });
  const wrong = stepProblem(quantity, market?.lotSize ?? "1");
  return (
    <EditDialog
      title={`${marketTitle(position.market)}: close at market`}
      send={send}
      fields={["quantity"]}
      button="Close it"
      good={wrong === ""}
      onClose={onClose}
    >
      <DecimalField
        label="Quantity"
        suffix={market?.baseAsset}
        value={quantity}
        onChange={setQuantity}
        required
        problem={wrong || refusalOf(send.error, "quantity")}
      />
    </EditDialog>
  );
}

interface ExitsProps extends EditProps {
  market: MarketJson | undefined;
  mark: string;
  have: ExitOrders;
}

/** Reduce-only orders that end the position by themselves; they show among the open orders too. */
function Exits({ position, market, mark, have, onClose }: ExitsProps) {
  const [stop, setStop] = useState(have.stop?.triggerPrice ?? "");
  const [profit, setProfit] = useState(have.profit?.triggerPrice ?? "");
  const once = useOnce();
  const save = useMutation({
    mutationFn: async () => {
      const { amend, place, cancel } = planExits(position, have, stop, profit);
      const exits = [have.stop, have.profit].flatMap((order) => order ?? []);
      for (const { orderId, ...change } of amend) {
        await patch(`/v1/orders/${orderId}`, change).catch((error: unknown) => {
          throw refusedExit(error, exits.filter((order) => order.orderId === orderId));
        });
      }
      const [first, second] = place;
      const placed =
        first && second
          ? once({ first, second }, (id) => post("/v1/orders:oco", withIds({ first, second }, id)))
          : first && once(first, (clientOrderId) => post("/v1/orders", { ...first, clientOrderId }));
      await placed?.catch((error: unknown) => {
        throw refusedExit(error, place);
      });
      for (const orderId of cancel) await remove(`/v1/orders/${orderId}`);
    },
    onSuccess: onClose,
  });
  const tick = market?.tickSize ?? "1";
  const wrong = [stepProblem(stop, tick), stepProblem(profit, tick)] as const;
  return (
    <EditDialog
      title={`${marketTitle(position.market)}: stop loss and take profit`}
      send={save}
      fields={["stop_loss", "take_profit"]}
      button="Save"
      good={wrong.every((text) => text === "")}
      onClose={onClose}
    >
      <p className="hint">
        Orders that close the whole position when the mark price is there. With both, one cancels the other.
      </p>
      <dl>
        <dt>Entry price</dt>
        <dd className="number">{pretty(entryPrice(position, decimalsOf(tick)), tick)}</dd>
        <dt>Mark price</dt>
        <dd className="number">{pretty(mark, tick)}</dd>
      </dl>
      <DecimalField
        label="Stop loss at"
        hint={wouldBring(position, stop, wrong[0], market)}
        suffix={market?.quoteAsset}
        value={stop}
        problem={wrong[0] || refusalOf(save.error, "stop_loss")}
        onChange={corrected(save, setStop)}
      />
      <DecimalField
        label="Take profit at"
        hint={wouldBring(position, profit, wrong[1], market)}
        suffix={market?.quoteAsset}
        value={profit}
        problem={wrong[1] || refusalOf(save.error, "take_profit")}
        onChange={corrected(save, setProfit)}
      />
    </EditDialog>
  );
}

/** What the position would come to at a typed price, fees apart. */
function wouldBring(position: PositionJson, price: string, wrong: string, market: MarketJson | undefined): ReactNode {
  if (!price || wrong) return "empty for none";
  return <Profit amount={cut(positionProfit(position, price), 2)} step="0.01" unit={market?.quoteAsset} />;
}
