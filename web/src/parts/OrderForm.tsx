import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useCallback, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PlaceOcoResponseJson, PlaceOrderResponseJson } from "../gen/tidebook/engine/v1/order_pb";
import type { TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import type { Account } from "../lib/account";
import { post } from "../lib/api";
import { absolute, pretty } from "../lib/decimal";
import { isBuy, kindOf, marketTitle, ORDER_TYPES, words } from "../lib/names";
import {
  BLANK,
  type Draft,
  type FormType,
  hasPrice,
  hasTrigger,
  isComplete,
  isTrailing,
  problemOf,
  share,
  toOco,
  toOrder,
} from "../lib/order";
import { useKey } from "../lib/page";
import { Choice, DecimalField } from "./Basics";
import { Leverage, useLeverage } from "./Leverage";
import { OrderOptions } from "./OrderOptions";
import { OrderPreview } from "./OrderPreview";
import { Problem } from "./Problem";

const CONDITIONAL: readonly FormType[] = [
  "ORDER_TYPE_STOP_LIMIT",
  "ORDER_TYPE_STOP_MARKET",
  "ORDER_TYPE_TAKE_PROFIT_LIMIT",
  "ORDER_TYPE_TAKE_PROFIT_MARKET",
  "ORDER_TYPE_TRAILING_STOP",
  "OCO",
];

interface Props {
  market: MarketJson;
  account: Account;
  ticker: TickerJson | undefined;
  price: string;
  onPrice: (price: string) => void;
}

type Placed = { order: PlaceOrderResponseJson } | { pair: PlaceOcoResponseJson };

/** Spot and margin orders of every type. */
export function OrderForm({ market, account, ticker, price, onPrice }: Props) {
  const [rest, setRest] = useState<Omit<Draft, "price">>(BLANK);
  const draft: Draft = { ...rest, price };
  const set = (change: Partial<Draft>) => setRest((old) => ({ ...old, ...change }));
  const setSide = useCallback((side: Draft["side"]) => setRest((old) => ({ ...old, side })), []);
  useKey("b", useCallback(() => setSide("SIDE_BUY"), [setSide]));
  useKey("s", useCallback(() => setSide("SIDE_SELL"), [setSide]));
  const [leverage, setLeverage] = useLeverage(market.market ?? "");

  const place = useMutation({
    mutationFn: async (order: Draft): Promise<Placed> => {
      // Sent once more by an impatient finger, it is still one order.
      const clientOrderId = crypto.randomUUID();
      if (order.type !== "OCO") {
        return { order: await post<PlaceOrderResponseJson>("/v1/orders", { ...toOrder(order, market), clientOrderId }) };
      }
      const { first, second } = toOco(order, market);
      const pair = { first: { ...first, clientOrderId }, second: { ...second, clientOrderId: crypto.randomUUID() } };
      return { pair: await post<PlaceOcoResponseJson>("/v1/orders:oco", pair) };
    },
  });
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    place.mutate(draft);
  };

  const margin = kindOf(market) === "margin";
  const buy = isBuy(draft.side);
  const byQuote = draft.type === "ORDER_TYPE_MARKET" && draft.byQuote;
  const pays = margin || buy ? market.quoteAsset : market.baseAsset;
  const free = account.balances[pays ?? ""]?.free ?? "0";
  const near = (buy ? ticker?.bestAsk : ticker?.bestBid) || ticker?.markPrice || "";
  const problem = problemOf(draft, market);
  const verb = margin ? (buy ? "Buy / long" : "Sell / short") : buy ? "Buy" : "Sell";
  const position = account.positions.find((row) => row.market === market.market);

  return (
    <section className="panel" aria-label="Place an order">
      <h2>{marketTitle(market.market)}</h2>
      {margin && <Leverage market={market} position={position} leverage={leverage} onLeverage={setLeverage} />}
      <form onSubmit={onSubmit}>
        <div className="switch" role="group" aria-label="Side">
          <Choice name={margin ? "Buy / long" : "Buy"} tone="buy" on={buy} choose={() => setSide("SIDE_BUY")} />
          <Choice name={margin ? "Sell / short" : "Sell"} tone="sell" on={!buy} choose={() => setSide("SIDE_SELL")} />
        </div>
        <TypeChoice type={draft.type} onType={(type) => set({ type })} />
        {hasTrigger(draft.type) && (
          <DecimalField
            label={draft.type === "OCO" ? "Stop trigger price" : "Trigger price"}
            suffix={market.quoteAsset}
            required
            value={draft.trigger}
            onChange={(trigger) => set({ trigger })}
          />
        )}
        {draft.type === "OCO" && (
          <DecimalField
            label="Stop limit price"
            hint="(empty: at market)"
            suffix={market.quoteAsset}
            value={draft.stopPrice}
            onChange={(stopPrice) => set({ stopPrice })}
          />
        )}
        {isTrailing(draft.type) && (
          <DecimalField
            label="Trailing distance"
            suffix="%"
            required
            value={draft.trailingPercent}
            onChange={(trailingPercent) => set({ trailingPercent })}
          />
        )}
        {hasPrice(draft.type) && (
          <DecimalField
            label="Price"
            hint={`steps of ${market.tickSize}`}
            suffix={market.quoteAsset}
            required
            value={price}
            onChange={onPrice}
          />
        )}
        {draft.type === "ORDER_TYPE_MARKET" && (
          <div className="tabs" role="group" aria-label="Amount in">
            <Choice name={`In ${market.baseAsset}`} on={!draft.byQuote} choose={() => set({ byQuote: false })} />
            <Choice name={`In ${market.quoteAsset}`} on={draft.byQuote} choose={() => set({ byQuote: true })} />
          </div>
        )}
        <DecimalField
          label={byQuote ? "Amount" : "Quantity"}
          hint={byQuote ? "" : `steps of ${market.lotSize}`}
          suffix={byQuote ? market.quoteAsset : market.baseAsset}
          required
          value={draft.quantity}
          onChange={(quantity) => set({ quantity })}
        />
        <div className="switch shares" role="group" aria-label="Part of what is available">
          {["25", "50", "75", "100"].map((percent) => (
            <button
              type="button"
              key={percent}
              onClick={() => set({ quantity: share(free, percent, draft, market, near, leverage) })}
            >
              {percent}%
            </button>
          ))}
        </div>
        <OrderOptions draft={draft} market={market} set={set} />
        <dl>
          <dt>Available</dt>
          <dd className="number">
            {pretty(free)} {pays}
          </dd>
          {position && (
            <>
              <dt>Position</dt>
              <dd className="number">
                {position.quantity?.startsWith("-") ? "Short" : "Long"} {pretty(absolute(position.quantity ?? "0"))}
              </dd>
            </>
          )}
        </dl>
        {isComplete(draft) && problem === "" && <OrderPreview draft={draft} market={market} leverage={leverage} />}
        {problem && <p className="hint">{problem}</p>}
        <Problem error={place.error} />
        {place.data && !place.error && <Result placed={place.data} />}
        <button
          type="submit"
          className={`primary ${buy ? "buy" : "sell"}`}
          disabled={place.isPending || problem !== ""}
        >
          {place.isPending ? "Sending…" : `${verb} ${market.baseAsset}`}
        </button>
      </form>
    </section>
  );
}

function TypeChoice({ type, onType }: { type: FormType; onType: (type: FormType) => void }) {
  const conditional = CONDITIONAL.includes(type);
  return (
    <div className="switch types" role="group" aria-label="Order type">
      <Choice name="Limit" on={type === "ORDER_TYPE_LIMIT"} choose={() => onType("ORDER_TYPE_LIMIT")} />
      <Choice name="Market" on={type === "ORDER_TYPE_MARKET"} choose={() => onType("ORDER_TYPE_MARKET")} />
      <select
        aria-label="Conditional order"
        className={conditional ? "on" : ""}
        value={conditional ? type : ""}
        onChange={(event) => onType(CONDITIONAL.find((name) => name === event.target.value) ?? "ORDER_TYPE_LIMIT")}
      >
        <option value="">Stop…</option>
        {CONDITIONAL.map((name) => (
          <option key={name} value={name}>
            {ORDER_TYPES[name] ?? "OCO (one cancels the other)"}
          </option>
        ))}
      </select>
    </div>
  );
}

function Result({ placed }: { placed: Placed }) {
  if ("pair" in placed) {
    return (
      <p className="done" role="status">
        Orders {placed.pair.first?.orderId} and {placed.pair.second?.orderId} are placed: one cancels the other.
      </p>
    );
  }
  const { order, fills = [] } = placed.order;
  return (
    <p className="done" role="status">
      Order {order?.orderId} is {words(order?.status, "ORDER_STATUS_")}
      {fills.length > 0 && `: ${pretty(order?.filledQuantity)} filled in ${fills.length} ${fills.length === 1 ? "trade" : "trades"}`}.
    </p>
  );
}
