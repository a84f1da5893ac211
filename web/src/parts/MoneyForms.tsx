import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type {
  CreateDepositRequestJson,
  CreateDepositResponseJson,
  CreateShardTransferRequestJson,
  CreateShardTransferResponseJson,
  CreateWithdrawalRequestJson,
  CreateWithdrawalResponseJson,
  TransferJson,
} from "../gen/tidebook/settlement/v1/ledger_pb";
import { type Account, freeOn } from "../lib/account";
import { post } from "../lib/api";
import { pretty } from "../lib/decimal";
import { words } from "../lib/names";
import { useOnce } from "../lib/once";
import { numberProblem } from "../lib/order";
import { DecimalField } from "./Basics";
import { Problem, refusalOf } from "./Problem";
import { ShardChoice, shardsOf } from "./Shards";

interface Props {
  codes: string[];
  account: Account;
  markets: readonly MarketJson[];
}

/** A request for money to move, sent once, and what became of it. */
function useMove<T extends { amount?: string }>(path: string, onDone?: () => void) {
  const queries = useQueryClient();
  const once = useOnce();
  return useMutation({
    mutationFn: (wish: T) => once(wish, (requestId) => post<{ transfer?: TransferJson }>(path, { ...wish, requestId })),
    onSuccess: onDone,
    onSettled: () => queries.invalidateQueries({ queryKey: ["mine", "transfers"] }),
  });
}

/** The demo onramp; called play money where a person sees it. */
export function Deposit({ codes, markets }: Props) {
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("1000");
  const [shard, setShard] = useState(0);
  const deposit = useMove<CreateDepositRequestJson>("/v1/deposits");
  return (
    <MoneyForm
      title="Deposit"
      label="Faucet"
      button="Get play money"
      move={deposit}
      amount={amount}
      onSend={() => deposit.mutate({ asset, amount, shard })}
    >
      <p className="hint">This exchange runs with play money: the faucet gives some, within its daily limit.</p>
      <AssetChoice codes={codes} asset={asset} onAsset={setAsset} />
      <ShardChoice label="To shard" markets={markets} shard={shard} onShard={setShard} />
      <AmountField asset={asset} amount={amount} onAmount={setAmount} error={deposit.error} />
    </MoneyForm>
  );
}

export function Withdraw({ codes, account, markets }: Props) {
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("");
  const [address, setAddress] = useState("");
  const [shard, setShard] = useState(0);
  const withdraw = useMove<CreateWithdrawalRequestJson>("/v1/withdrawals", () => setAmount(""));
  const free = freeOn(account, shard, asset);
  return (
    <MoneyForm
      title="Withdraw"
      label="Withdraw"
      button="Withdraw"
      move={withdraw}
      amount={amount}
      onSend={() => withdraw.mutate({ asset, amount, address, shard })}
    >
      <AssetChoice codes={codes} asset={asset} onAsset={setAsset} />
      <ShardChoice label="From shard" markets={markets} shard={shard} onShard={setShard} />
      <AmountField asset={asset} amount={amount} free={free} onAmount={setAmount} error={withdraw.error} />
      <label>
        To address
        <input
          required
          maxLength={128}
          autoComplete="off"
          spellCheck={false}
          value={address}
          onChange={(event) => setAddress(event.target.value)}
        />
      </label>
    </MoneyForm>
  );
}

/** Where the exchange runs on several engines: money from the markets of one to those of another. */
export function BetweenShards({ codes, account, markets }: Props) {
  const [first = 0, second = 1] = shardsOf(markets);
  const [asset, setAsset] = useState("USDC");
  const [amount, setAmount] = useState("");
  const [from, setFrom] = useState(first);
  const [to, setTo] = useState(second);
  const transfer = useMove<CreateShardTransferRequestJson>("/v1/transfers", () => setAmount(""));
  const same = from === to ? "From and to are the same shard." : "";
  return (
    <MoneyForm
      title="Move between shards"
      label="Move between shards"
      button="Move"
      move={transfer}
      amount={amount}
      problem={same}
      onSend={() => transfer.mutate({ asset, amount, fromShard: from, toShard: to })}
    >
      <AssetChoice codes={codes} asset={asset} onAsset={setAsset} />
      <ShardChoice label="From shard" markets={markets} shard={from} onShard={setFrom} />
      <ShardChoice label="To shard" markets={markets} shard={to} onShard={setTo} />
      <AmountField
        asset={asset}
        amount={amount}
        free={freeOn(account, from, asset)}
        onAmount={setAmount}
        error={transfer.error}
      />
    </MoneyForm>
  );
}

interface MoneyFormProps {
  title: string;
  label: string;
  button: string;
  move: {
    error: Error | null;
    isPending: boolean;
    data?: CreateDepositResponseJson | CreateWithdrawalResponseJson | CreateShardTransferResponseJson;
  };
  amount: string;
  problem?: string;
  onSend: () => void;
  children: ReactNode;
}

function MoneyForm({ title, label, button, move, amount, problem = "", onSend, children }: MoneyFormProps) {
  const wrong = problem || numberProblem(amount);
  return (
    <section className="panel">
      <h2>{title}</h2>
      <form
        aria-label={label}
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          onSend();
        }}
      >
        {children}
        {problem && <p className="problem">{problem}</p>}
        <Problem error={move.error} elsewhere={["amount"]} />
        {move.data && !move.error && <Moved transfer={move.data.transfer} />}
        <button type="submit" className="primary" disabled={move.isPending || wrong !== ""}>
          {move.isPending ? "Sending…" : button}
        </button>
      </form>
    </section>
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

interface AmountProps {
  asset: string;
  amount: string;
  /** What there is, where that limits it. */
  free?: string;
  onAmount: (amount: string) => void;
  error: Error | null;
}

function AmountField({ asset, amount, free, onAmount, error }: AmountProps) {
  return (
    <>
      <DecimalField
        label="Amount"
        hint={free !== undefined && `available ${pretty(free)}`}
        suffix={asset}
        required
        value={amount}
        problem={numberProblem(amount) || refusalOf(error, "amount")}
        onChange={onAmount}
      />
      {free !== undefined && (
        <div>
          <button type="button" className="quiet" onClick={() => onAmount(free)}>
            All of it
          </button>
        </div>
      )}
    </>
  );
}

function Moved({ transfer }: { transfer: TransferJson | undefined }) {
  return (
    <p className="done" role="status">
      {pretty(transfer?.amount)} {transfer?.asset}: {words(transfer?.status, "TRANSFER_STATUS_")}
      {transfer?.failure && ` (${words(transfer.failure, "REASON_")})`}.
    </p>
  );
}
