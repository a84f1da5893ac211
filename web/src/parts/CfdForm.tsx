import { keepPreviousData, useMutation, useQuery } from "@tanstack/react-query";
import { type FormEvent, useCallback, useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type {
  OpenCfdRequestJson,
  OpenCfdResponseJson,
  PreviewCfdResponseJson,
} from "../gen/tidebook/engine/v1/position_pb";
import type { SideJson } from "../gen/tidebook/engine/v1/types_pb";
import type { PriceJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { type Account, freeOn } from "../lib/account";
import { post } from "../lib/api";
import { cut, decimalsOf, floorTo, multiply, pretty } from "../lib/decimal";
import { isBuy, marketTitle } from "../lib/names";
import { useOnce } from "../lib/once";
import { numberProblem, stepProblem } from "../lib/order";
import { useKey, useSettled } from "../lib/page";
import { askOf, bidOf } from "../lib/profit";
import { wholeNumber } from "../lib/screen";
import { Choice, DecimalField } from "./Basics";
import { LeverageChoice } from "./Leverage";
import { corrected, Problem, refusalOf, WouldBeRefused } from "./Problem";

interface Props {
  market: MarketJson;
  account: Account;
  price: PriceJson | undefined;
}

/** A contract for difference: margin, leverage and, if wanted, where it ends by itself. */
export function CfdForm({ market, account, price }: Props) {
  const [side, setSide] = useState<SideJson>("SIDE_BUY");
  useKey("b", useCallback(() => setSide("SIDE_BUY"), []));
  useKey("s", useCallback(() => setSide("SIDE_SELL"), []));
  const [margin, setMargin] = useState("");
  const [leverage, setLeverage] = useState("10");
  const [stopLoss, setStopLoss] = useState("");
  const [takeProfit, setTakeProfit] = useState("");
  const wish: OpenCfdRequestJson = {
    market: market.market,
    side,
    margin,
    leverage: wholeNumber(leverage),
    ...(stopLoss && { stopLoss }),
    ...(takeProfit && { takeProfit }),
  };
  const once = useOnce();
  const open = useMutation({
    mutationFn: () => once(wish, (clientCfdId) => post<OpenCfdResponseJson>("/v1/cfds", { ...wish, clientCfdId })),
    // A contract that is open is not opened again by one key too many.
    onSuccess: () => setMargin(""),
  });
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    open.mutate();
  };
  const buy = isBuy(side);
  const quote = market.quoteAsset ?? "";
  const free = freeOn(account, market.shard, quote);
  const tick = market.tickSize ?? "1";
  const wrong = {
    margin: numberProblem(margin),
    stop_loss: stepProblem(stopLoss, tick),
    take_profit: stepProblem(takeProfit, tick),
  };
  const good = wrong.margin === "" && wrong.stop_loss === "" && wrong.take_profit === "";
  const wrongAt = (field: keyof typeof wrong) => wrong[field] || refusalOf(open.error, field);
  return (
    <section className="panel" aria-label="Open a CFD">
      <h2>{marketTitle(market.market)}</h2>
      <form onSubmit={onSubmit}>
        <div className="switch two-lines" role="group" aria-label="Side">
          <Choice
            name={
              <>
                Long <small>{pretty(askOf(price), tick)}</small>
              </>
            }
            tone="buy"
            on={buy}
            choose={() => setSide("SIDE_BUY")}
          />
          <Choice
            name={
              <>
                Short <small>{pretty(bidOf(price), tick)}</small>
              </>
            }
            tone="sell"
            on={!buy}
            choose={() => setSide("SIDE_SELL")}
          />
        </div>
        <DecimalField
          label="Margin"
          suffix={quote}
          required
          shortcut="q"
          value={margin}
          problem={wrongAt("margin")}
          onChange={corrected(open, setMargin)}
        />
        <div className="switch shares" role="group" aria-label="Part of what is available">
          {["0.25", "0.5", "0.75", "1"].map((part) => (
            <button key={part} type="button" onClick={() => setMargin(floorTo(multiply(free, part), "0.01"))}>
              {cut(multiply(part, "100"), 0)}%
            </button>
          ))}
        </div>
        <LeverageChoice most={market.maxLeverage ?? 1} leverage={leverage} onLeverage={setLeverage} />
        <DecimalField
          label="Stop loss"
          hint="optional"
          suffix={quote}
          value={stopLoss}
          problem={wrongAt("stop_loss")}
          onChange={corrected(open, setStopLoss)}
        />
        <DecimalField
          label="Take profit"
          hint="optional"
          suffix={quote}
          value={takeProfit}
          problem={wrongAt("take_profit")}
          onChange={corrected(open, setTakeProfit)}
        />
        <dl>
          <dt>Available</dt>
          <dd className="number">
            {pretty(free)} {quote}
          </dd>
        </dl>
        {margin && good && <Preview wish={wish} market={market} />}
        <Problem error={open.error} elsewhere={Object.keys(wrong)} />
        {open.data && !open.error && (
          <p className="done" role="status">
            CFD {open.data.cfd?.cfdId} is open at {pretty(open.data.cfd?.entryPrice, tick)}.
          </p>
        )}
        <button type="submit" className={`primary ${buy ? "buy" : "sell"}`} disabled={open.isPending || !good}>
          {open.isPending ? "Sending…" : `Open ${buy ? "long" : "short"}`}
        </button>
        <p className="hint">
          Against the house at the feed's price{price?.simulated && ", which is simulated here"}. You can lose the
          margin and no more.
        </p>
      </form>
    </section>
  );
}

function Preview({ wish, market }: { wish: OpenCfdRequestJson; market: MarketJson }) {
  const text = useSettled(JSON.stringify(wish), 250);
  const { data, error } = useQuery({
    queryKey: ["mine", "preview-cfd", text],
    queryFn: () => post<PreviewCfdResponseJson>("/v1/cfds:preview", { cfd: JSON.parse(text) as object }),
    placeholderData: keepPreviousData,
    refetchInterval: 3_000,
    gcTime: 0,
    retry: false,
  });
  if (error) return <Problem error={error} />;
  if (data === undefined) return <p className="notice">Working it out…</p>;
  const { cfd, fee = "0" } = data;
  const quote = market.quoteAsset;
  const tick = market.tickSize;
  return (
    <dl className="preview" aria-label="Preview">
      {cfd && (
        <>
          <dt>Entry price</dt>
          <dd className="number">
            {pretty(cfd.entryPrice, tick)} {quote}
          </dd>
          <dt>Position</dt>
          <dd className="number">
            {pretty(cfd.notional)} {quote}
          </dd>
          <dt>Fees</dt>
          <dd className="number">
            {pretty(fee || "0")} {quote}
          </dd>
          <dt>Liquidation price</dt>
          <dd className="number">
            {cfd.liquidationPrice ? `${pretty(cut(cfd.liquidationPrice, decimalsOf(tick)), tick)} ${quote}` : "none"}
          </dd>
        </>
      )}
      {data.error && <WouldBeRefused error={data.error} />}
    </dl>
  );
}
