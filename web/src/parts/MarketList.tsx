import { useQuery } from "@tanstack/react-query";
import { useCallback, useMemo, useRef, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { ListCandlesResponseJson, PriceJson, TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { get } from "../lib/api";
import { percentOfBps, pretty } from "../lib/decimal";
import type { ByMarket } from "../lib/hooks";
import { type Kind, KINDS, kindOf } from "../lib/names";
import { useKey } from "../lib/page";
import { screenNumber } from "../lib/screen";
import { Tabs } from "./Basics";

interface Props {
  markets: readonly MarketJson[];
  prices: ByMarket<PriceJson>;
  tickers: ByMarket<TickerJson>;
  chosen: MarketJson;
  onChoose: (market: string) => void;
}

export function MarketList({ markets, prices, tickers, chosen, onChoose }: Props) {
  const [search, setSearch] = useState("");
  const input = useRef<HTMLInputElement>(null);
  useKey(
    "/",
    useCallback(() => input.current?.focus(), []),
  );
  const kind = kindOf(chosen);
  // The same pair in the other kind, so that comparing spot with margin is one click.
  const onKind = (next: Kind) => {
    const ofKind = markets.filter((market) => kindOf(market) === next);
    const same = ofKind.find((market) => market.baseAsset === chosen.baseAsset) ?? ofKind[0];
    if (same?.market) onChoose(same.market);
  };
  const wanted = search.toUpperCase();
  const shown = markets.filter(
    (market) => kindOf(market) === kind && `${market.baseAsset}/${market.quoteAsset}`.includes(wanted),
  );
  const kinds = Object.entries(KINDS) as [Kind, string][];
  return (
    <nav className="panel markets" aria-label="Markets">
      <Tabs label="Kind of market" tabs={kinds} chosen={kind} onChoose={onKind} />
      <input
        ref={input}
        type="search"
        aria-label="Search markets"
        placeholder="Search  ( / )"
        value={search}
        onChange={(event) => setSearch(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && shown[0]?.market) onChoose(shown[0].market);
        }}
      />
      {shown.length === 0 && <p className="notice">No market is called that.</p>}
      <div className="list">
        {shown.map((market) => (
          <Entry
            key={market.market}
            market={market}
            price={prices[market.market ?? ""]}
            ticker={tickers[market.market ?? ""]}
            on={market.market === chosen.market}
            onChoose={onChoose}
          />
        ))}
      </div>
    </nav>
  );
}

interface EntryProps {
  market: MarketJson;
  price: PriceJson | undefined;
  ticker: TickerJson | undefined;
  on: boolean;
  onChoose: (market: string) => void;
}

function Entry({ market, price, ticker, on, onChoose }: EntryProps) {
  const bps = ticker?.changeBps ?? 0;
  return (
    <button type="button" aria-pressed={on} onClick={() => onChoose(market.market ?? "")}>
      <strong>
        {market.baseAsset}
        <small>/{market.quoteAsset}</small>
      </strong>
      <Sparkline market={`${market.baseAsset}_${market.quoteAsset}`} />
      <span className="last number">{pretty(ticker?.last || price?.price, market.tickSize)}</span>
      <span className={`number ${bps < 0 ? "down" : "up"}`}>{percentOfBps(bps)}</span>
      <small className="index" title="Price of the external feed">
        index {pretty(price?.price, market.tickSize)}
        {price?.simulated && " (simulated)"}
        {price?.stale && " (stale)"}
      </small>
    </button>
  );
}

const WIDTH = 64;
const HEIGHT = 20;

/** The external price over the last hour. */
function Sparkline({ market }: { market: string }) {
  const { data } = useQuery({
    queryKey: ["sparkline", market],
    queryFn: () =>
      get<ListCandlesResponseJson>(
        `/v1/marketdata/${market}/candles?interval=CANDLE_INTERVAL_1M&source=CANDLE_SOURCE_INDEX&pageSize=60`,
      ),
    refetchInterval: 60_000,
  });
  const path = useMemo(() => {
    const closes = (data?.candles ?? []).flatMap(({ close }) => screenNumber(close) ?? []).reverse();
    if (closes.length < 2) return null;
    const low = Math.min(...closes);
    const span = Math.max(...closes) - low || 1;
    const points = closes.map(
      (close, at) =>
        `${((at * WIDTH) / (closes.length - 1)).toFixed(1)},${(HEIGHT - 1 - ((close - low) * (HEIGHT - 2)) / span).toFixed(1)}`,
    );
    return { points: points.join(" "), rose: (closes.at(-1) ?? 0) >= (closes[0] ?? 0) };
  }, [data]);
  return (
    <svg className={`spark ${path?.rose === false ? "down" : "up"}`} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      {path && <polyline points={path.points} fill="none" stroke="currentColor" strokeWidth="1.5" />}
    </svg>
  );
}
