import { useCallback, useEffect, useState } from "react";
import type { UserJson } from "./gen/tidebook/auth/v1/auth_pb";
import type { MarketJson } from "./gen/tidebook/engine/v1/market_pb";
import { useAccount } from "./lib/account";
import { pretty } from "./lib/decimal";
import { useExchange, usePrices, useTickers, useUser } from "./lib/hooks";
import { kindOf, marketTitle } from "./lib/names";
import { usePath, useTheme } from "./lib/page";
import { AuthPanel } from "./parts/AuthPanel";
import { BookPanel } from "./parts/BookPanel";
import { CfdForm } from "./parts/CfdForm";
import { Chart } from "./parts/Chart";
import { Balances } from "./parts/Balances";
import { Desk } from "./parts/Desk";
import { Header } from "./parts/Header";
import { History } from "./parts/History";
import { MarketBar } from "./parts/MarketBar";
import { MarketList } from "./parts/MarketList";
import { OrderForm } from "./parts/OrderForm";
import { Security } from "./parts/Security";
import { Status } from "./parts/Status";
import { LostConnection, useTell } from "./parts/Notices";
import { TradesPanel } from "./parts/TradesPanel";
import { Wallet } from "./parts/Wallet";

type Account = ReturnType<typeof useAccount>;

export function App() {
  const { markets = [], assets = [], error } = useExchange();
  const user = useUser();
  const account = useAccount(user?.userId, useTell());
  const [path, go] = usePath();
  const { theme, setTheme, dark } = useTheme();
  const chosen = path.startsWith("/markets/") ? path.slice("/markets/".length) : "";
  const market = markets.find((row) => row.market === chosen) ?? markets[0];

  const onMarket = useCallback((name: string) => go(`/markets/${name}`), [go]);
  const mine = (view: (user: UserJson) => React.ReactNode) =>
    user ? (
      view(user)
    ) : (
      <main className="pages alone">
        <AuthPanel />
      </main>
    );
  return (
    <>
      <Header user={user} path={path} go={go} theme={theme} setTheme={setTheme} />
      <LostConnection />
      {path === "/wallet" && mine(() => <Wallet account={account} assets={assets} markets={markets} />)}
      {path === "/history" && mine(() => <History />)}
      {path === "/security" && mine((user) => <Security user={user} />)}
      {path === "/status" && <Status />}
      {(path === "/" || path.startsWith("/markets/")) &&
        (market === undefined ? (
          <p className="notice waiting" role="status">
            {error ? error.message : "Waiting for the exchange…"}
          </p>
        ) : (
          <Trade {...{ market, markets, user, account, dark, onMarket }} />
        ))}
    </>
  );
}

interface TradeProps {
  market: MarketJson;
  markets: readonly MarketJson[];
  user: UserJson | null | undefined;
  account: Account;
  dark: boolean;
  onMarket: (name: string) => void;
}

function Trade({ market, markets, user, account, dark, onMarket }: TradeProps) {
  const prices = usePrices();
  const tickers = useTickers();
  const [limit, setLimit] = useState({ market: "", price: "" });
  const name = market.market ?? "";
  const cfd = kindOf(market) === "cfd";
  const price = prices[name];
  const ticker = tickers[name];
  const onPrice = useCallback((price: string) => setLimit({ market: name, price }), [name]);
  useTitle(market, ticker?.last || price?.price);
  return (
    <main className={`trade ${cfd ? "cfd" : ""}`}>
      <MarketBar market={market} price={price} ticker={ticker} />
      <MarketList markets={markets} prices={prices} tickers={tickers} chosen={market} onChoose={onMarket} />
      <Chart market={market} dark={dark} />
      {!cfd && <BookPanel market={market} orders={account.openOrders} onPrice={onPrice} />}
      {!cfd && <TradesPanel market={market} />}
      <div className="side">
        {!user && <AuthPanel />}
        {user && cfd && <CfdForm key={name} market={market} account={account} price={price} />}
        {user && !cfd && (
          <OrderForm
            key={name}
            market={market}
            account={account}
            ticker={ticker}
            // A price that was chosen in one market means nothing in another.
            price={limit.market === name ? limit.price : ""}
            onPrice={onPrice}
          />
        )}
        {user && (
          <section className="panel" aria-label="Balances">
            <Balances account={account} brief />
          </section>
        )}
      </div>
      {user && <Desk account={account} markets={markets} prices={prices} tickers={tickers} />}
    </main>
  );
}

/** The price in the browser's tab, as traders expect it. */
function useTitle(market: MarketJson, price: string | undefined): void {
  const text = `${price ? `${pretty(price, market.tickSize)} ` : ""}${marketTitle(market.market)} · Tidebook`;
  useEffect(() => {
    document.title = text;
    return () => {
      document.title = "Tidebook";
    };
  }, [text]);
}
