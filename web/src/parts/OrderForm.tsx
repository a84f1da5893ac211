import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PlaceOrderRequestJson, PlaceOrderResponseJson } from "../gen/tidebook/engine/v1/order_pb";
import { post } from "../lib/api";
import { isMultiple, multiply, parse, pretty } from "../lib/decimal";
import type { Account } from "../lib/hooks";
import { Problem } from "./Problem";

interface Props {
  market: MarketJson;
  account: Account;
  price: string;
  onPrice: (price: string) => void;
}

type Type = "ORDER_TYPE_LIMIT" | "ORDER_TYPE_MARKET";
type Side = "SIDE_BUY" | "SIDE_SELL";

export function OrderForm({ market, account, price, onPrice }: Props) {
  const [type, setType] = useState<Type>("ORDER_TYPE_LIMIT");
  const [side, setSide] = useState<Side>("SIDE_BUY");
  const [ioc, setIoc] = useState(false);
  const [quantity, setQuantity] = useState("");
  const limit = type === "ORDER_TYPE_LIMIT";

  const place = useMutation({
    mutationFn: (order: PlaceOrderRequestJson) => post<PlaceOrderResponseJson>("/v1/orders", order),
  });
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    place.mutate({
      market: market.market,
      side,
      type,
      quantity,
      // Sent once more by an impatient finger, it is still one order.
      clientOrderId: crypto.randomUUID(),
      ...(limit && { price, timeInForce: ioc ? "TIME_IN_FORCE_IOC" : "TIME_IN_FORCE_GTC" }),
    });
  };

  const pays = side === "SIDE_BUY" ? market.quoteAsset : market.baseAsset;
  const free = account.balances[pays ?? ""]?.free ?? "0";
  const total = limit && parse(price) && parse(quantity) ? multiply(price, quantity) : "";
  const problem = fieldProblem(market, limit ? price : null, quantity);

  return (
    <section className="panel" aria-label="Place an order">
      <h2>
        {market.baseAsset}/{market.quoteAsset}
      </h2>
      <form onSubmit={onSubmit}>
        <div className="switch" role="group" aria-label="Side">
          <Choice name="Buy" tone="up" on={side === "SIDE_BUY"} choose={() => setSide("SIDE_BUY")} />
          <Choice name="Sell" tone="down" on={side === "SIDE_SELL"} choose={() => setSide("SIDE_SELL")} />
        </div>
        <div className="switch" role="group" aria-label="Order type">
          <Choice name="Limit" on={limit} choose={() => setType("ORDER_TYPE_LIMIT")} />
          <Choice name="Market" on={!limit} choose={() => setType("ORDER_TYPE_MARKET")} />
        </div>
        {limit && (
          <label>
            Price ({market.quoteAsset}, steps of {market.tickSize})
            <input
              inputMode="decimal"
              required
              value={price}
              onChange={(event) => onPrice(event.target.value.trim())}
            />
          </label>
        )}
        <label>
          Quantity ({market.baseAsset}, steps of {market.lotSize})
          <input
            inputMode="decimal"
            required
            value={quantity}
            onChange={(event) => setQuantity(event.target.value.trim())}
          />
        </label>
        {limit && (
          <label className="inline">
            <input type="checkbox" checked={ioc} onChange={(event) => setIoc(event.target.checked)} />
            Immediate or cancel
          </label>
        )}
        <dl>
          <dt>Available</dt>
          <dd className="number">
            {pretty(free)} {pays}
          </dd>
          {total && (
            <>
              <dt>Total</dt>
              <dd className="number">
                {pretty(total, market.tickSize)} {market.quoteAsset}
              </dd>
            </>
          )}
          <dt>Fees (maker / taker)</dt>
          <dd className="number">
            {market.makerFeeBps ?? 0} / {market.takerFeeBps ?? 0} bps
          </dd>
        </dl>
        {problem && <p className="hint">{problem}</p>}
        <Problem error={place.error} />
        {place.data && !place.error && <Result {...place.data} />}
        <button
          type="submit"
          className={`primary ${side === "SIDE_BUY" ? "buy" : "sell"}`}
          disabled={place.isPending || problem !== ""}
        >
          {side === "SIDE_BUY" ? "Buy" : "Sell"} {market.baseAsset}
        </button>
      </form>
    </section>
  );
}

function fieldProblem(market: MarketJson, price: string | null, quantity: string): string {
  if (price && !parse(price)) return "The price is not a plain number such as 12.5.";
  if (price && !isMultiple(price, market.tickSize ?? "1"))
    return `The price is a multiple of ${market.tickSize}.`;
  if (quantity && !parse(quantity)) return "The quantity is not a plain number such as 0.25.";
  if (quantity && !isMultiple(quantity, market.lotSize ?? "1"))
    return `The quantity is a multiple of ${market.lotSize}.`;
  return "";
}

function Result({ order, fills = [] }: PlaceOrderResponseJson) {
  const status = (order?.status ?? "").replace("ORDER_STATUS_", "").replace("_", " ").toLowerCase();
  return (
    <p className="done" role="status">
      Order {order?.orderId} is {status}
      {fills.length > 0 && `: ${pretty(order?.filledQuantity)} filled in ${fills.length} trades`}.
    </p>
  );
}

interface ChoiceProps {
  name: string;
  on: boolean;
  choose: () => void;
  tone?: string;
}

function Choice({ name, on, choose, tone = "" }: ChoiceProps) {
  return (
    <button type="button" className={tone} aria-pressed={on} onClick={choose}>
      {name}
    </button>
  );
}
