import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type { AssetJson } from "../gen/tidebook/engine/v1/market_pb";
import type {
  CreateDepositResponseJson,
  CreateWithdrawalResponseJson,
  ListTransfersResponseJson,
  TransferJson,
} from "../gen/tidebook/settlement/v1/ledger_pb";
import type { Account } from "../lib/account";
import { get, post } from "../lib/api";
import { pretty } from "../lib/decimal";
import { dateTime, words } from "../lib/names";
import { Balances } from "./Balances";
import { DecimalField, Placeholder, Table } from "./Basics";
import { Problem } from "./Problem";

interface Props {
  account: Account;
  assets: readonly AssetJson[];
}

export function Wallet({ account, assets }: Props) {
  const codes = assets.map((asset) => asset.code ?? "");
  return (
    <main className="pages">
      <section className="panel whole" aria-label="Balances">
        <Balances account={account} />
      </section>
      <Deposit codes={codes} />
      <Withdraw codes={codes} account={account} />
      <Transfers />
    </main>
  );
}

function AssetChoice({ codes, asset, onAsset }: { codes: string[]; asset: string; onAsset: (asset: string) => void }) {
  return (
    <label>
      Asset
      <select value={asset} onChange={(event) => onAsset(event.target.value)}>
        {codes.map((code) => (
          <option key={code}>{code}</option>
        ))}
      </select>
    </label>
  );
}

/** The demo onramp; called play money where a person sees it. */
function Deposit({ codes }: { codes: string[] }) {
  const queries = useQueryClient();
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("1000");
  const deposit = useMutation({
    mutationFn: () =>
      post<CreateDepositResponseJson>("/v1/deposits", { asset, amount, requestId: crypto.randomUUID() }),
    onSettled: () => queries.invalidateQueries({ queryKey: ["mine", "transfers"] }),
  });
  return (
    <section className="panel">
      <h2>Deposit</h2>
      <form
        aria-label="Faucet"
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          deposit.mutate();
        }}
      >
        <p className="hint">This exchange runs with play money: the faucet gives some, within its daily limit.</p>
        <AssetChoice codes={codes} asset={asset} onAsset={setAsset} />
        <DecimalField label="Amount" suffix={asset} required value={amount} onChange={setAmount} />
        <Problem error={deposit.error} />
        {deposit.data && !deposit.error && <Moved transfer={deposit.data.transfer} />}
        <button type="submit" className="primary" disabled={deposit.isPending}>
          Get play money
        </button>
      </form>
    </section>
  );
}

function Withdraw({ codes, account }: { codes: string[]; account: Account }) {
  const queries = useQueryClient();
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("");
  const [address, setAddress] = useState("");
  const withdraw = useMutation({
    mutationFn: () =>
      post<CreateWithdrawalResponseJson>("/v1/withdrawals", { asset, amount, address, requestId: crypto.randomUUID() }),
    onSettled: () => queries.invalidateQueries({ queryKey: ["mine", "transfers"] }),
  });
  const free = account.balances[asset]?.free ?? "0";
  return (
    <section className="panel">
      <h2>Withdraw</h2>
      <form
        aria-label="Withdraw"
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          withdraw.mutate();
        }}
      >
        <AssetChoice codes={codes} asset={asset} onAsset={setAsset} />
        <DecimalField
          label="Amount"
          hint={`available ${pretty(free)}`}
          suffix={asset}
          required
          value={amount}
          onChange={setAmount}
        />
        <label>
          To address
          <input required maxLength={128} value={address} onChange={(event) => setAddress(event.target.value)} />
        </label>
        <Problem error={withdraw.error} />
        {withdraw.data && !withdraw.error && <Moved transfer={withdraw.data.transfer} />}
        <button type="submit" className="primary" disabled={withdraw.isPending}>
          Withdraw
        </button>
      </form>
    </section>
  );
}

function Moved({ transfer }: { transfer: TransferJson | undefined }) {
  return (
    <p className="done" role="status">
      {pretty(transfer?.amount)} {transfer?.asset}: {words(transfer?.status, "TRANSFER_STATUS_")}
      {transfer?.failure && ` (${transfer.failure})`}.
    </p>
  );
}

const CANCELLABLE = new Set(["TRANSFER_STATUS_PENDING", "TRANSFER_STATUS_HELD"]);

function Transfers() {
  const queries = useQueryClient();
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "transfers"],
    queryFn: () => get<ListTransfersResponseJson>("/v1/transfers?pageSize=50"),
    refetchInterval: 5_000,
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
        <Table label="Deposits and withdrawals" head={["Time", "Kind", "Asset", ">Amount", "Status", "!Actions"]}>
          {transfers.map((transfer) => (
            <tr key={transfer.transferId}>
              <td>{dateTime(transfer.createTime)}</td>
              <td>
                {words(transfer.direction, "TRANSFER_DIRECTION_")}
                {transfer.simulated && <small> play money</small>}
              </td>
              <td>{transfer.asset}</td>
              <td className="number">{pretty(transfer.amount)}</td>
              <td>
                {words(transfer.status, "TRANSFER_STATUS_")} <small>{transfer.failure}</small>
              </td>
              <td className="actions">
                {transfer.direction === "TRANSFER_DIRECTION_WITHDRAWAL" && CANCELLABLE.has(transfer.status ?? "") && (
                  <button
                    type="button"
                    className="quiet"
                    aria-label={`Cancel withdrawal ${transfer.transferId}`}
                    onClick={() => cancel.mutate(transfer.transferId ?? "")}
                  >
                    Cancel
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
