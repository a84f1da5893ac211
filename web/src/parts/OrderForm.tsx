import { useMutation } from "@tanstack/react-query";
import { type FormEvent, memo, useCallback, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PlaceOcoResponseJson, PlaceOrderResponseJson } from "../gen/tidebook/engine/v1/order_pb";
import type { TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { type Account, freeOn } from "../lib/account";
import { post } from "../lib/api";
import { absolute, decimalsOf, divide, isZero, pretty } from "../lib/decimal";
import { isBuy, kindOf, marketTitle, ORDER_TYPES, words } from "../lib/names";
import {
  BLANK,
  type Draft,
  type FormType,
  hasPrice,
  hasTrigger,
  isComplete,
  isTrailing,
  problemsOf,
  share,
  spendsQuote,
  toOco,
  toOrder,
  withIds,
} from "../lib/order";
import { useOnce } from "../lib/once";
import { useKey } from "../lib/page";
import { ending } from "../lib/reasons";
import { Choice, DecimalField } from "./Basics";
import { Leverage, useLeverage } from "./Leverage";
import { OrderOptions } from "./OrderOptions";
import { OrderPreview } from "./OrderPreview";
import { Problem, refusalOf } from "./Problem";

const CONDITIONAL: readonly FormType[] = [
  "ORDER_TYPE_STOP_LIMIT",
  "ORDER_TYPE_STOP_MARKET",
  "ORDER_TYPE_TAKE_PROFIT_LIMIT",
  "ORDER_TYPE_TAKE_PROFIT_MARKET",
  "ORDER_TYPE_TRAILING_STOP",
  "OCO",
];

// Where a refusal about them is shown next to them.
const FIELDS: readonly string[] = ["price", "stop_price", "trigger_price", "trailing_bps", "quantity", "quote_amount"];

interface Props {
  market: MarketJson;
  account: Account;
  ticker: TickerJson | undefined;
  price: string;
  onPrice: (price: string) => void;
}

type Placed = { order: PlaceOrderResponseJson } | { pair: PlaceOcoResponseJson };

/** Spot and margin orders of every type. Prices of other markets do not draw it anew. */
export const OrderForm = memo(function OrderForm({ market, account, ticker, price, onPrice }: Props) {
  const [rest, setRest] = useState<Omit<Draft, "price">>(BLANK);
  const draft: Draft = { ...rest, price };
  const setSide = useCallback((side: Draft["side"]) => setRest((old) => ({ ...old, side })), []);
  const setType = useCallback((type: FormType) => setRest((old) => ({ ...old, type })), []);
  useKey("b", useCallback(() => setSide("SIDE_BUY"), [setSide]));
  useKey("s", useCallback(() => setSide("SIDE_SELL"), [setSide]));
  useKey("l", useCallback(() => setType("ORDER_TYPE_LIMIT"), [setType]));
  useKey("m", useCallback(() => setType("ORDER_TYPE_MARKET"), [setType]));
  const [leverage, setLeverage] = useLeverage(market.market ?? "");

  const once = useOnce();
  const place = useMutation({
    mutationFn: async (order: Draft): Promise<Placed> => {
      if (order.type === "OCO") {
        const pair = toOco(order, market);
        return { pair: await once(pair, (id) => post<PlaceOcoResponseJson>("/v1/orders:oco", withIds(pair, id))) };
      }
      const single = toOrder(order, market);
      return {
        order: await once(single, (clientOrderId) =>
          post<PlaceOrderResponseJson>("/v1/orders", { ...single, clientOrderId }),
        ),
      };
    },
    // An order that went out is not sent again by one key too many. What was typed meanwhile is another.
    onSuccess: (_, sent) => setRest((old) => (isSame(old, sent) ? { ...old, quantity: "" } : old)),
  });
  // A refusal is about what was sent; once that is changed it says nothing any more.
  const corrected = () => place.isError && place.reset();
  const set = (change: Partial<Draft>) => {
    corrected();
    setRest((old) => ({ ...old, ...change }));
  };
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    place.mutate(draft);
  };

  const margin = kindOf(market) === "margin";
  const buy = isBuy(draft.side);
  const byQuote = draft.type === "ORDER_TYPE_MARKET" && draft.byQuote;
  const pays = margin || buy ? market.quoteAsset : market.baseAsset;
  const free = freeOn(account, market.shard, pays);
  const near = (buy ? ticker?.bestAsk : ticker?.bestBid) || ticker?.markPrice || "";
  const problems = problemsOf(draft, market);
  const hidden = problems.find(({ field }) => !FIELDS.includes(field));
  const wrongAt = (field: string) => problems.find((problem) => problem.field === field)?.text ?? refusalOf(place.error, field);
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
            problem={wrongAt("trigger_price")}
            onChange={(trigger) => set({ trigger })}
          />
        )}
        {draft.type === "OCO" && (
          <DecimalField
            label="Stop limit price"
            hint="(empty: at market)"
            suffix={market.quoteAsset}
            value={draft.stopPrice}
            problem={wrongAt("stop_price")}
            onChange={(stopPrice) => set({ stopPrice })}
          />
        )}
        {isTrailing(draft.type) && (
          <DecimalField
            label="Trailing distance"
            suffix="%"
            required
            value={draft.trailingPercent}
            problem={wrongAt("trailing_bps")}
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
            problem={wrongAt("price")}
            onChange={(typed) => {
              corrected();
              onPrice(typed);
            }}
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
          shortcut="q"
          value={draft.quantity}
          problem={wrongAt("quantity") || wrongAt("quote_amount")}
          onChange={(quantity) => set({ quantity })}
        />
        <div className="switch shares" role="group" aria-label="Part of what is available">
          {["25", "50", "75", "100"].map((percent) => (
            <button
              type="button"
              key={percent}
              onClick={() => {
                const change = { byQuote: draft.byQuote || spendsQuote(draft, market) };
                set({ ...change, quantity: share(free, percent, { ...draft, ...change }, market, near, leverage) });
              }}
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
                {position.quantity?.startsWith("-") ? "Short" : "Long"} {pretty(absolute(position.quantity ?? "0"))} {market.baseAsset}
              </dd>
            </>
          )}
        </dl>
        {isComplete(draft) && problems.length === 0 && <OrderPreview draft={draft} market={market} leverage={leverage} />}
        {hidden && <p className="problem">More options: {hidden.text}</p>}
        <Problem error={place.error} elsewhere={FIELDS} />
        {place.data && !place.error && <Result placed={place.data} market={market} />}
        <button
          type="submit"
          className={`primary ${buy ? "buy" : "sell"}`}
          disabled={place.isPending || problems.length > 0}
        >
          {place.isPending ? "Sending…" : `${verb} ${market.baseAsset}`}
        </button>
      </form>
    </section>
  );
});

const isSame = (rest: Omit<Draft, "price">, sent: Draft): boolean =>
  JSON.stringify({ ...rest, price: sent.price }) === JSON.stringify(sent);

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
            {ORDER_TYPES[name] ?? "OCO pair"}
          </option>
        ))}
      </select>
    </div>
  );
}

function Result({ placed, market }: { placed: Placed; market: MarketJson }) {
  if ("pair" in placed) {
    return (
      <p className="done" role="status">
        Orders {placed.pair.first?.orderId} and {placed.pair.second?.orderId} are placed: one cancels the other.
      </p>
    );
  }
  const { order, fills = [] } = placed.order;
  const filled = order?.filledQuantity ?? "0";
  const average = isZero(filled) ? "" : divide(order?.filledNotional ?? "0", filled, decimalsOf(market.tickSize));
  const because = ending(order?.closeReason);
  return (
    <p className="done" role="status">
      Order {order?.orderId} is {words(order?.status, "ORDER_STATUS_")}
      {because && ` (${because})`}
      {fills.length > 0 && `: ${pretty(filled)} ${market.baseAsset} at ${pretty(average, market.tickSize)} on average`}.
    </p>
  );
}
