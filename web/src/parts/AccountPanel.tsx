import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { CreateDepositResponseJson } from "../gen/tidebook/settlement/v1/ledger_pb";
import { post, remove } from "../lib/api";
import { add, pretty } from "../lib/decimal";
import type { Account } from "../lib/hooks";
import { Problem } from "./Problem";

interface Props {
  account: Account;
  markets: MarketJson[];
}

export function AccountPanel({ account, markets }: Props) {
  const byName = Object.fromEntries(markets.map((market) => [market.market ?? "", market]));
  return (
    <section className="panel account" aria-label="Account" aria-busy={!account.ready}>
      <Balances account={account} markets={markets} />
      <OpenOrders account={account} byName={byName} />
      <Fills account={account} byName={byName} />
    </section>
  );
}

function Balances({ account, markets }: Props) {
  const rows = Object.values(account.balances);
  return (
    <div>
      <h2>Balances</h2>
      {account.ready && rows.length === 0 && (
        <p className="notice">Nothing here yet: take some play money from the faucet.</p>
      )}
      {rows.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Asset</th>
              <th className="number">Available</th>
              <th className="number">In orders</th>
              <th className="number">Total</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ asset = "", free = "0", held = "0" }) => (
              <tr key={asset}>
                <td>{asset}</td>
                <td className="number">{pretty(free)}</td>
                <td className="number">{pretty(held)}</td>
                <td className="number">{pretty(add(free, held))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <Faucet assets={[...new Set(markets.flatMap((m) => [m.quoteAsset ?? "", m.baseAsset ?? ""]))]} />
    </div>
  );
}

/** Demo money; called play money where a person sees it. */
function Faucet({ assets }: { assets: string[] }) {
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("1000");
  const deposit = useMutation({
    mutationFn: () =>
      post<CreateDepositResponseJson>("/v1/deposits", {
        asset,
        amount,
        requestId: crypto.randomUUID(),
      }),
  });
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    deposit.mutate();
  };
  return (
    <form className="line" onSubmit={onSubmit} aria-label="Faucet">
      <input
        aria-label="Amount"
        inputMode="decimal"
        value={amount}
        onChange={(event) => setAmount(event.target.value.trim())}
      />
      <select aria-label="Asset" value={asset} onChange={(event) => setAsset(event.target.value)}>
        {assets.map((code) => (
          <option key={code}>{code}</option>
        ))}
      </select>
      <button type="submit" disabled={deposit.isPending}>
        Get play money
      </button>
      <Problem error={deposit.error} />
    </form>
  );
}

interface Rows {
  account: Account;
  byName: Record<string, MarketJson>;
}

function OpenOrders({ account, byName }: Rows) {
  const cancel = useMutation({ mutationFn: (id: string) => remove(`/v1/orders/${id}`) });
  const cancelAll = useMutation({ mutationFn: () => remove("/v1/orders") });
  const orders = account.openOrders;
  return (
    <div>
      <h2>
        Open orders <small>{orders.length}</small>
        {orders.length > 1 && (
          <button type="button" className="quiet" onClick={() => cancelAll.mutate()}>
            Cancel all
          </button>
        )}
      </h2>
      {account.ready && orders.length === 0 && <p className="notice">No open orders.</p>}
      {orders.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Market</th>
              <th>Side</th>
              <th className="number">Price</th>
              <th className="number">Filled / quantity</th>
              <th>
                <span className="hidden">Action</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {orders.map((order) => (
              <tr key={order.orderId}>
                <td>{order.market?.replace("_", "/")}</td>
                <td className={order.side === "SIDE_BUY" ? "up" : "down"}>
                  {order.side === "SIDE_BUY" ? "Buy" : "Sell"}
                </td>
                <td className="number">{pretty(order.price, byName[order.market ?? ""]?.tickSize)}</td>
                <td className="number">
                  {pretty(order.filledQuantity || "0")} / {pretty(order.quantity)}
                </td>
                <td>
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
          </tbody>
        </table>
      )}
      <Problem error={cancel.error ?? cancelAll.error} />
    </div>
  );
}

function Fills({ account, byName }: Rows) {
  return (
    <div>
      <h2>Your fills</h2>
      {account.fills.length === 0 && <p className="notice">No fills in this session.</p>}
      {account.fills.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Market</th>
              <th>Side</th>
              <th className="number">Price</th>
              <th className="number">Quantity</th>
              <th className="number">Fee</th>
            </tr>
          </thead>
          <tbody>
            {account.fills.map((fill) => (
              <tr key={`${fill.market}-${fill.tradeId}-${fill.side}`}>
                <td>{fill.market?.replace("_", "/")}</td>
                <td className={fill.side === "SIDE_BUY" ? "up" : "down"}>
                  {fill.side === "SIDE_BUY" ? "Buy" : "Sell"}
                </td>
                <td className="number">{pretty(fill.price, byName[fill.market ?? ""]?.tickSize)}</td>
                <td className="number">{pretty(fill.quantity)}</td>
                <td className="number">{pretty(fill.fee || "0")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}
