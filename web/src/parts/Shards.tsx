import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { Account } from "../lib/account";
import { wholeNumber } from "../lib/screen";
import { AmountCell, Table } from "./Basics";

/** The shards that have markets. */
export function shardsOf(markets: readonly MarketJson[]): number[] {
  return [...new Set(markets.map((market) => market.shard ?? 0))].sort((a, b) => a - b);
}

/** A shard by what is traded on it: "1: SOL, DOGE". */
export function shardName(shard: number, markets: readonly MarketJson[]): string {
  const here = markets.filter((market) => (market.shard ?? 0) === shard);
  return `${shard}: ${[...new Set(here.map((market) => market.baseAsset))].join(", ")}`;
}

interface ChoiceProps {
  label: string;
  markets: readonly MarketJson[];
  shard: number;
  onShard: (shard: number) => void;
}

/** Nothing where there is only one. */
export function ShardChoice({ label, markets, shard, onShard }: ChoiceProps) {
  const shards = shardsOf(markets);
  if (shards.length < 2) return null;
  return (
    <label>
      {label}
      <select value={shard} onChange={(event) => onShard(wholeNumber(event.target.value))}>
        {shards.map((number) => (
          <option key={number} value={number}>
            {shardName(number, markets)}
          </option>
        ))}
      </select>
    </label>
  );
}

/** What is where: an order can only use what is on the shard of its market. */
export function ShardBalances({ account, markets }: { account: Account; markets: readonly MarketJson[] }) {
  const rows = shardsOf(markets).flatMap((shard) =>
    [...(account.shards.get(shard)?.values() ?? [])].map((balance) => ({ shard, ...balance })),
  );
  if (rows.length === 0) return null;
  return (
    <>
      <h3>By shard</h3>
      <p className="hint">This exchange runs on several engines. An order uses the money on the shard of its market.</p>
      <Table label="Balances by shard" head={["Shard", "Asset", ">Available", ">In use"]}>
        {rows.map(({ shard, asset, free, held }) => (
          <tr key={`${shard} ${asset}`}>
            <td>{shardName(shard, markets)}</td>
            <td>{asset}</td>
            <AmountCell amount={free} />
            <AmountCell amount={held} />
          </tr>
        ))}
      </Table>
    </>
  );
}
