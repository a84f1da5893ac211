import { useQuery } from "@tanstack/react-query";
import { memo, useCallback, useMemo, useRef, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { ListCandlesResponseJson, PriceJson, TickerJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { get } from "../lib/api";
import { percentOfBps, pretty } from "../lib/decimal";
import type { ByMarket } from "../lib/hooks";
import { type Kind, KINDS, kindOf, toneOf } from "../lib/names";
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

const Entry = memo(function Entry({ market, price, ticker, on, onChoose }: EntryProps) {
  const bps = ticker?.changeBps;
  return (
    <button type="button" aria-pressed={on} onClick={() => onChoose(market.market ?? "")}>
      <strong>
        {market.baseAsset}
        <small>/{market.quoteAsset}</small>
      </strong>
      <span className="last number">{pretty(ticker?.last || price?.price, market.tickSize)}</span>
      <Sparkline market={`${market.baseAsset}_${market.quoteAsset}`} />
      <span className={`number ${toneOf(bps ?? 0)}`} title="24 h">
        {ticker?.last && percentOfBps(bps ?? 0)}
      </span>
      <small className="index" title="Price of the external feed">
        index {pretty(price?.price, market.tickSize)}
        {price?.simulated && " (simulated)"}
        {price?.stale && " (stale)"}
      </small>
    </button>
  );
});

const WIDTH = 100;
const HEIGHT = 20;
/** A market with fewer minutes than this behind it shows its last seconds. */
const YOUNG = 10;

const indexCandles = (market: string, interval: string) => async () => {
  const path = `/v1/marketdata/${market}/candles?interval=${interval}&source=CANDLE_SOURCE_INDEX&pageSize=60`;
  return (await get<ListCandlesResponseJson>(path)).candles ?? [];
};

/** The external price over the last hour; in a young market over the last minute. */
function Sparkline({ market }: { market: string }) {
  const { data: minutes } = useQuery({
    queryKey: ["sparkline", market],
    queryFn: indexCandles(market, "CANDLE_INTERVAL_1M"),
    refetchInterval: 60_000,
  });
  const young = minutes !== undefined && minutes.length < YOUNG;
  const { data: seconds } = useQuery({
    queryKey: ["sparkline", market, "young"],
    queryFn: indexCandles(market, "CANDLE_INTERVAL_1S"),
    refetchInterval: 10_000,
    enabled: young,
  });
  const candles = young ? seconds : minutes;
  const path = useMemo(() => {
    const closes = (candles ?? []).flatMap(({ close }) => screenNumber(close) ?? []).reverse();
    if (closes.length < 2) return null;
    const low = Math.min(...closes);
    const span = Math.max(...closes) - low || 1;
    const points = closes.map(
      (close, at) =>
        `${((at * WIDTH) / (closes.length - 1)).toFixed(1)},${(HEIGHT - 1 - ((close - low) * (HEIGHT - 2)) / span).toFixed(1)}`,
    );
    return { points: points.join(" "), rose: (closes.at(-1) ?? 0) >= (closes[0] ?? 0) };
  }, [candles]);
  return (
    <svg
      className={`spark ${path === null ? "flat" : path.rose ? "up" : "down"}`}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      <polyline
        points={path?.points ?? `0,${HEIGHT / 2} ${WIDTH},${HEIGHT / 2}`}
        fill="none"
        stroke="currentColor"
        strokeWidth="1.5"
        vectorEffect="non-scaling-stroke"
      />
    </svg>
  );
}
