import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import type { ListPricesResponseJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import type { GetReconciliationResponseJson } from "../gen/tidebook/settlement/v1/ledger_pb";
import { get } from "../lib/api";
import { add, pretty, subtract } from "../lib/decimal";
import { dateTime, words } from "../lib/names";
import { Placeholder, Table } from "./Basics";
import { ConnectionState, Feed } from "./Header";

interface Ready {
  ready?: boolean;
  services?: Record<string, boolean>;
}

/** How the exchange is: everything that anyone may know. */
export function Status() {
  return (
    <main className="pages">
      <System />
      <Prices />
      <Reconciliation />
    </main>
  );
}

function System() {
  const { data, error, isPending } = useQuery({
    queryKey: ["ready"],
    // Not ready is an answer too, so its status does not matter.
    queryFn: async () => (await (await fetch("/readyz")).json()) as Ready,
    refetchInterval: 5_000,
  });
  return (
    <section className="panel" aria-label="System">
      <h2>System</h2>
      <dl className="facts">
        <dt>Your connection</dt>
        <dd>
          <ConnectionState />
        </dd>
        <dt>Prices</dt>
        <dd>
          <Feed />
        </dd>
        {Object.entries(data?.services ?? {}).map(([name, good]) => (
          <Fact key={name} name={name}>
            <span className={`badge ${good ? "good" : "bad"}`}>{good ? "working" : "not reachable"}</span>
          </Fact>
        ))}
      </dl>
      {data === undefined && <Placeholder loading={isPending} error={error} empty="" />}
    </section>
  );
}

function Prices() {
  const { data, error, isPending } = useQuery({
    queryKey: ["feed"],
    queryFn: () => get<ListPricesResponseJson>("/v1/prices"),
    refetchInterval: 10_000,
  });
  const sources = data?.sources ?? [];
  return (
    <section className="panel" aria-label="Price feed">
      <h2>Price feed</h2>
      <p className="hint">
        {data?.feed?.simulated
          ? "Outside prices are simulated: recorded or made up, not those of a live market."
          : "Outside prices are those of a live market."}{" "}
        {sources.length === 0 && data?.feed?.detail}
      </p>
      {sources.length === 0 && <Placeholder loading={isPending} error={error} empty="No source is asked." />}
      <dl className="facts">
        {sources.map((source) => (
          <Fact key={source.source} name={words(source.source, "FEED_KIND_")}>
            <span className={`badge ${source.healthy ? "good" : "bad"}`}>{source.healthy ? "fresh" : "not fresh"}</span>{" "}
            {source.simulated && <span className="badge warn">simulated</span>} <small>{source.detail}</small>
          </Fact>
        ))}
      </dl>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}

const STATES: Record<string, readonly [string, string]> = {
  RECONCILIATION_STATE_MATCHED: ["good", "engine, ledger and archive agree"],
  RECONCILIATION_STATE_DIFFERS: ["bad", "they differ"],
  RECONCILIATION_STATE_WAITING: ["warn", "waiting to be compared"],
};

function Reconciliation() {
  const { data, error, isPending } = useQuery({
    queryKey: ["reconciliation"],
    queryFn: () => get<GetReconciliationResponseJson>("/v1/reconciliation"),
    refetchInterval: 5_000,
  });
  if (data === undefined) {
    return (
      <section className="panel whole" aria-label="Reconciliation">
        <h2>Reconciliation</h2>
        <Placeholder loading={isPending} error={error} empty="" />
      </section>
    );
  }
  const [tone, text] = STATES[data.state ?? ""] ?? ["warn", "not compared yet"];
  return (
    <section className="panel whole" aria-label="Reconciliation">
      <h2>
        Reconciliation{" "}
        <span className={`badge ${data.balanced ? "good" : "bad"}`}>
          {data.balanced ? "books balance" : "books do not balance"}
        </span>
        <span className={`badge ${tone}`}>{text}</span>
        {data.halted && <span className="badge bad">the ledger has stopped and waits for an operator</span>}
      </h2>
      <p className="hint">
        At log position {data.logSeq}, {pretty(subtract(data.newestLogSeq ?? "0", data.logSeq ?? "0"))} behind the newest.
        Compared at {dateTime(data.comparedTime)}: {pretty(data.compared)} balances, {pretty(data.differing)} differing.
      </p>
      <Table
        label="Books by asset"
        // Its figures are to be compared down the columns.
        cards={false}
        head={["Asset", ">Clients", ">Fees", ">Insurance", ">House", ">Positions", ">Deposits", ">Withdrawals", ">Difference"]}
      >
        {(data.assets ?? []).map((asset) => (
          <tr key={asset.asset}>
            <td>{asset.asset}</td>
            <td className="number">{pretty(add(asset.clientsFree ?? "0", asset.clientsHeld ?? "0"))}</td>
            <td className="number">{pretty(asset.fees || "0")}</td>
            <td className="number">{pretty(asset.insurance || "0")}</td>
            <td className="number">{pretty(asset.house || "0")}</td>
            <td className="number">{pretty(asset.clearing || "0")}</td>
            <td className="number">{pretty(asset.deposits)}</td>
            <td className="number">{pretty(asset.withdrawals || "0")}</td>
            <td className="number">{pretty(asset.difference || "0")}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}
