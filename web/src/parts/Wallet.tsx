import type { AssetJson, MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { Account } from "../lib/account";
import { Balances } from "./Balances";
import { BetweenShards, Deposit, Withdraw } from "./MoneyForms";
import { ShardBalances } from "./Shards";
import { Transfers } from "./Transfers";

interface Props {
  account: Account;
  assets: readonly AssetJson[];
  markets: readonly MarketJson[];
}

export function Wallet({ account, assets, markets }: Props) {
  const codes = assets.map((asset) => asset.code ?? "");
  const several = new Set(markets.map((market) => market.shard ?? 0)).size > 1;
  const shared = { codes, account, markets };
  return (
    <main className="pages">
      <section className="panel whole" aria-label="Balances">
        <Balances account={account} />
        {several && <ShardBalances account={account} markets={markets} />}
      </section>
      <Deposit {...shared} />
      <Withdraw {...shared} />
      {several && <BetweenShards {...shared} />}
      <Transfers />
    </main>
  );
}
