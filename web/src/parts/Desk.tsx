import { useMemo, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PriceJson, TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import type { Account } from "../lib/account";
import { pretty } from "../lib/decimal";
import type { ByMarket } from "../lib/hooks";
import { clock, marketTitle } from "../lib/names";
import { SideName, Table, Tabs } from "./Basics";
import { Cfds } from "./Cfds";
import { OpenOrders } from "./OpenOrders";
import { Positions } from "./Positions";

interface Props {
  account: Account;
  markets: readonly MarketJson[];
  prices: ByMarket<PriceJson>;
  tickers: ByMarket<TickerJson>;
}

type Tab = "orders" | "positions" | "cfds" | "fills";

/** Everything of the account that lives: orders, positions, contracts, money. */
export function Desk({ account, markets, prices, tickers }: Props) {
  const [tab, setTab] = useState<Tab>("orders");
  const byName = useMemo(() => Object.fromEntries(markets.map((market) => [market.market ?? "", market])), [markets]);
  const count = (name: string, rows: readonly unknown[]) => (
    <>
      {name} <small>{rows.length}</small>
    </>
  );
  return (
    <section className="panel desk" aria-label="Account" aria-busy={!account.ready}>
      <Tabs<Tab>
        label="Account"
        tabs={[
          ["orders", count("Open orders", account.openOrders)],
          ["positions", count("Positions", account.positions)],
          ["cfds", count("CFDs", account.cfds)],
          ["fills", "Fills"],
        ]}
        chosen={tab}
        onChoose={setTab}
      />
      {tab === "orders" && <OpenOrders orders={account.openOrders} ready={account.ready} byName={byName} />}
      {tab === "positions" && <Positions positions={account.positions} orders={account.openOrders} byName={byName} tickers={tickers} />}
      {tab === "cfds" && <Cfds cfds={account.cfds} byName={byName} prices={prices} />}
      {tab === "fills" && <Fills account={account} byName={byName} />}
    </section>
  );
}

function Fills({ account, byName }: { account: Account; byName: Record<string, MarketJson> }) {
  if (account.fills.length === 0) {
    return <p className="notice">No fills since this page was opened. Older ones are in the history.</p>;
  }
  return (
    <Table label="Fills" head={["Time", "Market", "Side", ">Price", ">Quantity", ">Fee", "Role"]}>
      {account.fills.map((fill) => (
        <tr key={`${fill.market}-${fill.tradeId}-${fill.side}`}>
          <td>{clock(fill.time)}</td>
          <td>{marketTitle(fill.market)}</td>
          <td>
            <SideName side={fill.side} />
          </td>
          <td className="number">{pretty(fill.price, byName[fill.market ?? ""]?.tickSize)}</td>
          <td className="number">{pretty(fill.quantity)}</td>
          <td className="number">
            {pretty(fill.fee || "0")} {byName[fill.market ?? ""]?.quoteAsset}
          </td>
          <td>{fill.maker ? "maker" : "taker"}</td>
        </tr>
      ))}
    </Table>
  );
}
