import { useState } from "react";
import { useAccount, useMarkets, usePrices, useTickers, useUser } from "./lib/hooks";
import { AccountPanel } from "./parts/AccountPanel";
import { AuthPanel } from "./parts/AuthPanel";
import { BookPanel } from "./parts/BookPanel";
import { Header } from "./parts/Header";
import { MarketList } from "./parts/MarketList";
import { OrderForm } from "./parts/OrderForm";
import { TradesPanel } from "./parts/TradesPanel";

export function App() {
  const markets = useMarkets();
  const prices = usePrices();
  const tickers = useTickers();
  const user = useUser();
  const account = useAccount(user?.userId);
  const [chosen, setChosen] = useState("BTC_USDC");
  const [price, setPrice] = useState("");
  const market = markets.find((row) => row.market === chosen) ?? markets[0];

  return (
    <>
      <Header user={user} />
      {market === undefined ? (
        <p className="notice" role="status">
          Waiting for the exchange…
        </p>
      ) : (
        <main>
          <MarketList
            markets={markets}
            prices={prices}
            tickers={tickers}
            chosen={market.market ?? ""}
            onChoose={(name) => {
              setChosen(name);
              setPrice("");
            }}
          />
          <BookPanel market={market} onPrice={setPrice} />
          <TradesPanel market={market} />
          <div className="side">
            {user ? (
              <OrderForm market={market} account={account} price={price} onPrice={setPrice} />
            ) : (
              <AuthPanel />
            )}
          </div>
          {user && <AccountPanel account={account} markets={markets} />}
        </main>
      )}
    </>
  );
}
