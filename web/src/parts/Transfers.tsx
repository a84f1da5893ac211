import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import type { ListTransfersResponseJson, TransferJson } from "../gen/tidebook/settlement/v1/ledger_pb";
import { get, post } from "../lib/api";
import { pretty } from "../lib/decimal";
import { dateTime, words } from "../lib/names";
import { Placeholder, Table } from "./Basics";
import { Problem } from "./Problem";

const ON_ITS_WAY = new Set(["TRANSFER_STATUS_PENDING", "TRANSFER_STATUS_HELD"]);
const HEAD = ["Time", "Kind", "Asset", ">Amount", "To", "Status", "!Actions"];

export function Transfers() {
  const queries = useQueryClient();
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "transfers"],
    queryFn: () => get<ListTransfersResponseJson>("/v1/transfers?pageSize=50"),
    // What is on its way arrives within seconds.
    refetchInterval: ({ state }) => (state.data?.transfers?.some(isOnItsWay) ? 1_000 : 5_000),
  });
  const cancel = useMutation({
    mutationFn: (id: string) => post(`/v1/withdrawals/${id}:cancel`, {}),
    onSettled: () => queries.invalidateQueries({ queryKey: ["mine", "transfers"] }),
  });
  const transfers = data?.transfers ?? [];
  return (
    <section className="panel whole">
      <h2>Deposits and withdrawals</h2>
      {transfers.length === 0 && <Placeholder loading={isPending} error={error} empty="No money has come or gone yet." />}
      {transfers.length > 0 && (
        <Table label="Deposits and withdrawals" head={HEAD}>
          {transfers.map((transfer) => (
            <tr key={transfer.transferId}>
              <td>{dateTime(transfer.createTime)}</td>
              <td>
                {kindOf(transfer)}
                {transfer.simulated && <small> play money</small>}
              </td>
              <td>{transfer.asset}</td>
              <td className="number">{pretty(transfer.amount)}</td>
              <td className="long" title={transfer.address}>
                {transfer.address || "–"}
              </td>
              <td>
                {transfer.cancelling && isOnItsWay(transfer) ? "being called back" : words(transfer.status, "TRANSFER_STATUS_")}{" "}
                <small>{words(transfer.failure, "REASON_")}</small>
              </td>
              <td className="actions">
                {transfer.direction === "TRANSFER_DIRECTION_WITHDRAWAL" && isOnItsWay(transfer) && !transfer.cancelling && (
                  <button
                    type="button"
                    className="quiet"
                    aria-label={`Call back withdrawal ${transfer.transferId}`}
                    disabled={cancel.isPending && cancel.variables === transfer.transferId}
                    onClick={() => cancel.mutate(transfer.transferId ?? "")}
                  >
                    Call back
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
      <Problem error={cancel.error} />
    </section>
  );
}

const isOnItsWay = (transfer: TransferJson): boolean => ON_ITS_WAY.has(transfer.status ?? "");

function kindOf({ direction, shard = 0, toShard = 0 }: TransferJson): string {
  return direction === "TRANSFER_DIRECTION_SHARD"
    ? `shard ${shard} to ${toShard}`
    : words(direction, "TRANSFER_DIRECTION_");
}
