import { useInfiniteQuery, useMutation } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import type { FillJson, OrderJson } from "../gen/tidebook/engine/v1/order_pb";
import type { CfdJson, LiquidationJson, PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import type { ExportHistoryResponseJson, HistoryKindJson } from "../gen/tidebook/settlement/v1/history_pb";
import type { LedgerEntryJson } from "../gen/tidebook/settlement/v1/ledger_pb";
import { get, getStream } from "../lib/api";
import { absolute, divide, isNegative, isZero, pretty } from "../lib/decimal";
import { dateTime, marketTitle, words } from "../lib/names";
import { liquidatedSide, liquidatedSize } from "../lib/news";
import { ending } from "../lib/reasons";
import { Placeholder, Profit, SideName, Table, Tabs } from "./Basics";
import { OrderKind } from "./OrderKind";
import { Problem } from "./Problem";
import { Trace } from "./Trace";

/** One kind of history: where it is, its columns, and one row of it. */
interface Kind<T> {
  path: string;
  rows: (page: Record<string, unknown>) => T[];
  exported: HistoryKindJson;
  head: readonly string[];
  row: (item: T, trace: (orderId: string) => void) => ReactNode;
}

function kind<T>(field: string, definition: Omit<Kind<T>, "rows">): Kind<T> {
  return { ...definition, rows: (page) => (page[field] ?? []) as T[] };
}

function average(notional: string | undefined, quantity: string | undefined): string {
  return notional && quantity && !isZero(quantity) ? divide(absolute(notional), absolute(quantity), 5) : "";
}

const orderNumber = (id = "0"): string => (id === "0" ? "–" : id);

const ORDERS = kind<OrderJson>("orders", {
  path: "/v1/history/orders",
  exported: "HISTORY_KIND_ORDERS",
  head: ["Time", "Market", "Type", "Side", ">Price", ">Average", ">Filled / quantity", ">Fees", "Status", "!Actions"],
  row: (order, trace) => (
    <tr key={order.orderId}>
      <td>{dateTime(order.createTime)}</td>
      <td>{marketTitle(order.market)}</td>
      <td>
        <OrderKind order={order} trigger />
      </td>
      <td>
        <SideName side={order.side} />
      </td>
      <td className="number">{order.price ? pretty(order.price) : "market"}</td>
      <td className="number">{pretty(average(order.filledNotional, order.filledQuantity))}</td>
      <td className="number">
        {pretty(order.filledQuantity || "0")} / {pretty(order.quantity || order.quoteAmount)}
      </td>
      <td className="number">{pretty(order.fees || "0")}</td>
      <td>
        {words(order.status, "ORDER_STATUS_")} <small>{ending(order.closeReason)}</small>
      </td>
      <td className="actions">
        <button type="button" className="quiet" aria-label={`Trace order ${order.orderId}`} onClick={() => trace(order.orderId ?? "")}>
          Trace
        </button>
      </td>
    </tr>
  ),
});

const FILLS = kind<FillJson>("fills", {
  path: "/v1/history/fills",
  exported: "HISTORY_KIND_FILLS",
  head: ["Time", "Market", "Side", ">Price", ">Quantity", ">Value", ">Fee", "Role"],
  row: (fill) => (
    <tr key={`${fill.market} ${fill.tradeId} ${fill.side}`}>
      <td>{dateTime(fill.time)}</td>
      <td>{marketTitle(fill.market)}</td>
      <td>
        <SideName side={fill.side} />
      </td>
      <td className="number">{pretty(fill.price)}</td>
      <td className="number">{pretty(fill.quantity)}</td>
      <td className="number">{pretty(fill.notional)}</td>
      <td className="number">{pretty(fill.fee || "0")}</td>
      <td>{fill.maker ? "maker" : "taker"}</td>
    </tr>
  ),
});

const POSITIONS = kind<PositionJson>("positions", {
  path: "/v1/history/positions",
  exported: "HISTORY_KIND_POSITIONS",
  head: ["Opened", "Closed", "Market", "Side", ">Quantity", ">Entry", ">Exit", ">Fees", ">Profit", "Ended by"],
  row: (position) => (
    <tr key={`${position.market} ${position.logSeq}`}>
      <td>{dateTime(position.openTime)}</td>
      <td>{dateTime(position.closeTime)}</td>
      <td>{marketTitle(position.market)}</td>
      <td>
        <SideName side={isNegative(position.openedQuantity) ? "SIDE_SELL" : "SIDE_BUY"} long />
      </td>
      <td className="number">{pretty(absolute(position.openedQuantity || "0"))}</td>
      <td className="number">{pretty(average(position.entryNotional, position.openedQuantity))}</td>
      <td className="number">{pretty(average(position.exitNotional, position.openedQuantity))}</td>
      <td className="number">{pretty(position.fees || "0")}</td>
      <td className="number">
        <Profit amount={position.realisedPnl || "0"} />
      </td>
      <td>{position.liquidated ? "liquidation" : "you"}</td>
    </tr>
  ),
});

const CFDS = kind<CfdJson>("cfds", {
  path: "/v1/history/cfds",
  exported: "HISTORY_KIND_CFDS",
  head: ["Opened", "Closed", "Market", "Side", ">Margin", ">Entry", ">Exit", ">Returned", ">Profit", "Ended by"],
  row: (cfd) => (
    <tr key={cfd.cfdId}>
      <td>{dateTime(cfd.openTime)}</td>
      <td>{dateTime(cfd.closeTime)}</td>
      <td>
        {marketTitle(cfd.market)} <small>{cfd.leverage}x</small>
      </td>
      <td>
        <SideName side={cfd.side} long />
      </td>
      <td className="number">{pretty(cfd.margin)}</td>
      <td className="number">{pretty(cfd.entryPrice)}</td>
      <td className="number">{pretty(cfd.exitPrice)}</td>
      <td className="number">{pretty(cfd.returned)}</td>
      <td className="number">
        <Profit amount={cfd.realisedPnl || "0"} />
      </td>
      <td>{words(cfd.closeReason, "CFD_CLOSE_REASON_").replace("user", "you")}</td>
    </tr>
  ),
});

const LIQUIDATIONS = kind<LiquidationJson>("liquidations", {
  path: "/v1/history/liquidations",
  exported: "HISTORY_KIND_LIQUIDATIONS",
  head: ["Time", "Market", "Side", ">Size", ">Margin", ">Mark", ">Bankruptcy price", ">Returned", ">Insurance fund", ">Order"],
  row: (receipt) => (
    <tr key={receipt.liquidationId}>
      <td>{dateTime(receipt.time)}</td>
      <td>{marketTitle(receipt.market)}</td>
      <td>
        <SideName side={liquidatedSide(receipt)} long />
      </td>
      <td className="number">{pretty(liquidatedSize(receipt))}</td>
      <td className="number">{pretty(receipt.margin)}</td>
      <td className="number">{pretty(receipt.markPrice)}</td>
      <td className="number">{pretty(receipt.bankruptcyPrice)}</td>
      <td className="number">{pretty(receipt.returned || "0")}</td>
      <td className="number">
        <Profit amount={receipt.fundChange || "0"} />
      </td>
      <td className="number">{orderNumber(receipt.orderId)}</td>
    </tr>
  ),
});

// As the balances beside the order form call them.
const BALANCES: Record<string, string> = { free: "available", held: "in use" };

const LEDGER = kind<LedgerEntryJson>("entries", {
  path: "/v1/ledger",
  exported: "HISTORY_KIND_LEDGER",
  head: ["Time", "Kind", "Balance", "Asset", ">Amount", ">Balance after", ">Order"],
  row: (entry) => (
    <tr key={entry.entryId}>
      <td>{dateTime(entry.time)}</td>
      <td>{words(entry.kind, "")}</td>
      <td>{BALANCES[entry.ledgerAccount ?? ""] ?? entry.ledgerAccount}</td>
      <td>{entry.asset}</td>
      <td className="number">
        <Profit amount={entry.amount} />
      </td>
      <td className="number">{pretty(entry.balanceAfter)}</td>
      <td className="number">{orderNumber(entry.orderId)}</td>
    </tr>
  ),
});

type Name = "orders" | "fills" | "positions" | "cfds" | "liquidations" | "ledger";

const TABS: readonly (readonly [Name, string])[] = [
  ["orders", "Orders"],
  ["fills", "Fills"],
  ["positions", "Positions"],
  ["cfds", "CFDs"],
  ["liquidations", "Liquidations"],
  ["ledger", "Ledger"],
];

export function History() {
  const [name, setName] = useState<Name>("orders");
  return (
    <main className="pages">
      <section className="panel whole" aria-label="History">
        <Tabs label="Kind of history" tabs={TABS} chosen={name} onChoose={setName} />
        {name === "orders" && <Rows kind={ORDERS} />}
        {name === "fills" && <Rows kind={FILLS} />}
        {name === "positions" && <Rows kind={POSITIONS} />}
        {name === "cfds" && <Rows kind={CFDS} />}
        {name === "liquidations" && <Rows kind={LIQUIDATIONS} />}
        {name === "ledger" && <Rows kind={LEDGER} />}
      </section>
    </main>
  );
}

function Rows<T>({ kind: { path, rows, exported, head, row } }: { kind: Kind<T> }) {
  const [tracing, setTracing] = useState<string | null>(null);
  const { data, error, isPending, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery({
    queryKey: ["mine", "history", path],
    queryFn: ({ pageParam }) =>
      get<Record<string, unknown>>(`${path}?pageSize=50&pageToken=${encodeURIComponent(pageParam)}`),
    initialPageParam: "",
    getNextPageParam: (page) => (page.nextPageToken as string) || undefined,
    refetchInterval: 10_000,
  });
  const csv = useMutation({
    mutationFn: async () => {
      const pieces = await getStream<ExportHistoryResponseJson>(`/v1/history:export?kind=${exported}`);
      save(pieces.map((piece) => piece.csv ?? ""), `${words(exported, "HISTORY_KIND_")}.csv`);
    },
  });
  const items = data?.pages.flatMap(rows) ?? [];
  return (
    <>
      <div className="tools">
        <span className="spacer" />
        <button type="button" disabled={csv.isPending} onClick={() => csv.mutate()}>
          {csv.isPending ? "Preparing…" : "Download CSV"}
        </button>
      </div>
      <Problem error={csv.error} />
      {items.length === 0 && <Placeholder loading={isPending} error={error} empty="Nothing here yet." />}
      {items.length > 0 && (
        <Table label="History" head={head}>
          {items.map((item) => row(item, setTracing))}
        </Table>
      )}
      {hasNextPage && (
        <button type="button" className="quiet" disabled={isFetchingNextPage} onClick={() => fetchNextPage()}>
          {isFetchingNextPage ? "Loading…" : "Older ones"}
        </button>
      )}
      {tracing && <Trace orderId={tracing} onClose={() => setTracing(null)} />}
    </>
  );
}

function save(pieces: string[], name: string): void {
  const url = URL.createObjectURL(new Blob(pieces, { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
