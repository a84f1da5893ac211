import {
  CandlestickSeries,
  createChart,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  TickMarkType,
  type Time,
  type UTCTimestamp,
} from "lightweight-charts";
import { memo, useCallback, useEffect, useRef, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { CandleJson, CandleSourceJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { INTERVALS, useCandles } from "../lib/candles";
import { compare, decimalsOf, pretty } from "../lib/decimal";
import { dateTime, kindOf } from "../lib/names";
import { useRemembered } from "../lib/page";
import { screenNumber } from "../lib/screen";
import { Choice, Placeholder } from "./Basics";

interface Series {
  chart: IChartApi;
  candles: ISeriesApi<"Candlestick">;
  volume: ISeriesApi<"Histogram">;
}

interface Props {
  market: MarketJson;
  dark: boolean;
}

const QUICK = new Set(["CANDLE_INTERVAL_1M", "CANDLE_INTERVAL_5M", "CANDLE_INTERVAL_15M", "CANDLE_INTERVAL_1H"]);
// Of whole days of UTC, whatever the clock of the one who looks.
const DAYS = new Set(["CANDLE_INTERVAL_1D", "CANDLE_INTERVAL_3D", "CANDLE_INTERVAL_1W", "CANDLE_INTERVAL_1MO"]);
const NAMES = INTERVALS.map(([interval]) => interval);

/** Candles and volume. Prices that move elsewhere on the page do not draw it anew. */
export const Chart = memo(function Chart({ market, dark }: Props) {
  const [interval, setInterval] = useRemembered<(typeof NAMES)[number]>("interval", "CANDLE_INTERVAL_1M", NAMES);
  const ownTrades = kindOf(market) === "spot";
  const [wish, setWish] = useState<CandleSourceJson | null>(null);
  // A contract has no trades of its own and a margin book few: the external price tells more there.
  const source = wish ?? (ownTrades ? "CANDLE_SOURCE_CLOB" : "CANDLE_SOURCE_INDEX");
  return (
    <section className="panel chart" aria-label="Chart">
      <div className="tools">
        <div className="tabs" role="group" aria-label="Interval">
          {INTERVALS.filter(([name]) => QUICK.has(name)).map(([name, text]) => (
            <Choice key={name} name={text} on={name === interval} choose={() => setInterval(name)} />
          ))}
        </div>
        <select
          aria-label="More intervals"
          className={QUICK.has(interval) ? "" : "on"}
          value={QUICK.has(interval) ? "" : interval}
          onChange={(event) => setInterval(NAMES.find((name) => name === event.target.value) ?? interval)}
        >
          <option value="" disabled>
            More
          </option>
          {INTERVALS.filter(([name]) => !QUICK.has(name)).map(([name, text]) => (
            <option key={name} value={name}>
              {text}
            </option>
          ))}
        </select>
        <span className="spacer" />
        <div className="tabs" role="group" aria-label="Made of">
          {kindOf(market) !== "cfd" && (
            <Choice name="Trades" on={source === "CANDLE_SOURCE_CLOB"} choose={() => setWish("CANDLE_SOURCE_CLOB")} />
          )}
          <Choice name="Index" on={source === "CANDLE_SOURCE_INDEX"} choose={() => setWish("CANDLE_SOURCE_INDEX")} />
        </div>
      </div>
      <Canvas key={`${market.market} ${interval} ${source}`} {...{ market, dark, interval, source }} />
    </section>
  );
});

function Canvas({ market, dark, interval, source }: Props & Pick<Required<CandleJson>, "interval" | "source">) {
  const box = useRef<HTMLDivElement>(null);
  const series = useRef<Series | null>(null);
  const newest = useRef("");
  const decimals = decimalsOf(market.tickSize);
  const [under, setUnder] = useState<CandleJson | null>(null);
  const paint = useRef<Colours | null>(null);
  const byTime = useRef(new Map<number, CandleJson>());
  const [live, setLive] = useState<CandleJson | null>(null);

  useEffect(() => {
    if (box.current === null) return;
    const chart = createChart(box.current, {
      autoSize: true,
      layout: { background: { color: "transparent" }, attributionLogo: false, fontSize: 11 },
      timeScale: {
        timeVisible: true,
        secondsVisible: interval === "CANDLE_INTERVAL_1S",
        rightOffset: 4,
        tickMarkFormatter: tickMark,
      },
      localization: {
        timeFormatter: (time: Time) => (DAYS.has(interval) ? day(time) : dateTime(at(time).toISOString())),
      },
    });
    const candles = chart.addSeries(CandlestickSeries, {
      priceFormat: { type: "price", precision: decimals, minMove: 1 / 10 ** decimals },
    });
    const volume = chart.addSeries(HistogramSeries, {
      priceScaleId: "volume",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    chart.subscribeCrosshairMove(({ time }) => setUnder(byTime.current.get(time as number) ?? null));
    series.current = { chart, candles, volume };
    return () => {
      series.current = null;
      chart.remove();
    };
  }, [decimals, interval]);

  useEffect(() => {
    const colour = colours();
    paint.current = colour;
    series.current?.chart.applyOptions({
      layout: { textColor: colour.text },
      grid: { vertLines: { color: colour.grid }, horzLines: { color: colour.grid } },
      rightPriceScale: { borderColor: colour.grid },
      timeScale: { borderColor: colour.grid },
    });
    series.current?.candles.applyOptions({
      upColor: colour.up,
      downColor: colour.down,
      borderVisible: false,
      wickUpColor: colour.up,
      wickDownColor: colour.down,
    });
  }, [dark, interval, decimals]);

  const loading = useRef(true);
  const onLive = useCallback((candle: CandleJson) => {
    // Alone, without the past that is on its way, it would fill the screen for a moment.
    if (loading.current) return;
    const bar = drawn(candle, (paint.current ??= colours()));
    const at = candle.openTime ?? "";
    // Only the newest may change; an older one is in the next page from the server.
    if (series.current === null || bar === null || at < newest.current) return;
    newest.current = at;
    byTime.current.set(bar.candle.time as number, candle);
    series.current.candles.update(bar.candle);
    series.current.volume.update(bar.volume);
    setLive(candle);
  }, []);
  const { data, error, isPending } = useCandles({ market: market.market ?? "", interval, source }, onLive);
  useEffect(() => {
    loading.current = isPending;
  }, [isPending]);

  useEffect(() => {
    if (data === undefined || series.current === null) return;
    const colour = (paint.current ??= colours());
    const bars = [...data].reverse().flatMap((candle) => drawn(candle, colour) ?? []);
    byTime.current = new Map(data.map((candle) => [seconds(candle), candle]));
    newest.current = data[0]?.openTime ?? "";
    series.current.candles.setData(bars.map((bar) => bar.candle));
    series.current.volume.setData(bars.map((bar) => bar.volume));
    // A young market's few candles stay slim instead of filling the screen.
    const shown = Math.min(120, Math.max(40, bars.length));
    series.current.chart.timeScale().setVisibleLogicalRange({ from: bars.length - shown, to: bars.length + 3 });
  }, [data, dark]);

  const legend = under ?? live ?? data?.[0];
  const tick = market.tickSize;
  return (
    <div className="canvas">
      <p className="legend number">
        {legend && (
          <>
            O {pretty(legend.open, tick)} H {pretty(legend.high, tick)} L {pretty(legend.low, tick)} C{" "}
            {pretty(legend.close, tick)} <span>Vol {pretty(legend.volume)}</span>
            {legend.simulated && " · simulated"}
          </>
        )}
      </p>
      <div ref={box} className="plot" role="img" aria-label={`Candles of ${market.market}`} />
      {!data?.length && !live && (
        <div className="over">
          <Placeholder loading={isPending} error={error} empty="No trades in this chart yet: the first one draws a candle." />
        </div>
      )}
    </div>
  );
}

const seconds = ({ openTime = "" }: CandleJson): number => Math.floor(Date.parse(openTime) / 1000);

const at = (time: Time): Date => new Date((time as number) * 1000);
const day = (time: Time): string => at(time).toLocaleDateString(undefined, { dateStyle: "medium", timeZone: "UTC" });

/** The axis by the clock of the one who looks, days by UTC; the library alone knows only UTC. */
function tickMark(time: Time, type: TickMarkType, locale: string): string {
  const days: Partial<Record<TickMarkType, Intl.DateTimeFormatOptions>> = {
    [TickMarkType.Year]: { year: "numeric" },
    [TickMarkType.Month]: { month: "short" },
    [TickMarkType.DayOfMonth]: { month: "short", day: "numeric" },
  };
  const wanted = days[type];
  if (wanted) return at(time).toLocaleDateString(locale, { ...wanted, timeZone: "UTC" });
  const timeStyle = type === TickMarkType.TimeWithSeconds ? "medium" : "short";
  return at(time).toLocaleTimeString(locale, { timeStyle, hourCycle: "h23" });
}

type Colours = ReturnType<typeof colours>;

function drawn(candle: CandleJson, colour: Colours) {
  const [open, high, low, close] = [candle.open, candle.high, candle.low, candle.close].map(screenNumber);
  if (open == null || high == null || low == null || close == null) return null;
  const time = seconds(candle) as UTCTimestamp;
  const rose = compare(candle.close || "0", candle.open || "0") >= 0;
  return {
    candle: { time, open, high, low, close },
    volume: { time, value: screenNumber(candle.volume) ?? 0, color: rose ? colour.upSoft : colour.downSoft },
  };
}

/** The stylesheet's colours as the canvas needs them, for the theme of now. */
function colours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colour = (name: string) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    text: colour("dim"),
    grid: colour("grid"),
    up: colour("up"),
    down: colour("down"),
    upSoft: colour("up-soft"),
    downSoft: colour("down-soft"),
  };
  probe.remove();
  return found;
}
