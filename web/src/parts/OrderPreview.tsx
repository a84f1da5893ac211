import { keepPreviousData, useQuery } from "@tanstack/react-query";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PreviewOrderResponseJson } from "../gen/tidebook/engine/v1/order_pb";
import { post } from "../lib/api";
import { cut, decimalsOf, divide, isZero, percentOfBps, pretty } from "../lib/decimal";
import { type Draft, toOrder } from "../lib/order";
import { useSettled } from "../lib/page";
import { Problem, WouldBeRefused } from "./Problem";

interface Props {
  draft: Draft;
  market: MarketJson;
  leverage: string;
}

/** What the order would do now, by the code that would do it. */
export function OrderPreview({ draft, market, leverage }: Props) {
  const text = useSettled(JSON.stringify(toOrder(draft, market)), 250);
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "preview", text, leverage],
    queryFn: () => post<PreviewOrderResponseJson>("/v1/orders:preview", { order: JSON.parse(text) as object }),
    placeholderData: keepPreviousData,
    refetchInterval: 3_000,
    gcTime: 0,
    retry: false,
  });
  if (error) return <Problem error={error} />;
  if (isPending || data === undefined) return <p className="notice">Working it out…</p>;
  const { filledQuantity = "0", filledNotional = "0", fees = "0", restedQuantity = "0" } = data;
  const fills = !isZero(filledQuantity);
  const quote = market.quoteAsset;
  return (
    <dl className="preview" aria-label="Preview">
      {fills && (
        <Line
          name="Average price"
          text={`${pretty(divide(filledNotional, filledQuantity, decimalsOf(market.tickSize)), market.tickSize)} ${quote}`}
        />
      )}
      {fills && <Line name={draft.side === "SIDE_BUY" ? "Cost" : "Proceeds"} text={`${pretty(filledNotional)} ${quote}`} />}
      {fills && <Line name="Fees" text={`${pretty(fees)} ${quote}`} />}
      {!isZero(restedQuantity) && <Line name="Waits in the book" text={`${pretty(restedQuantity)} ${market.baseAsset}`} />}
      {data.hold && !isZero(data.hold) && (
        <Line name="Held, worst fee included" text={`${pretty(data.hold)} ${data.holdAsset}`} />
      )}
      {data.margin && !isZero(data.margin) && <Line name={`Margin at ${leverage}x`} text={`${pretty(data.margin)} ${quote}`} />}
      {data.positionQuantity && !isZero(data.positionQuantity) && (
        <Line name="Position after it" text={`${pretty(data.positionQuantity)} ${market.baseAsset}`} />
      )}
      {data.liquidationPrice && (
        <Line
          name="Liquidation price"
          text={`${pretty(cut(data.liquidationPrice, decimalsOf(market.tickSize)), market.tickSize)} ${quote}`}
        />
      )}
      <Line name="Maker / taker fee" text={[market.makerFeeBps, market.takerFeeBps].map((bps) => percentOfBps(bps ?? 0, false)).join(" / ")} />
      {data.error && <WouldBeRefused error={data.error} />}
    </dl>
  );
}

function Line({ name, text }: { name: string; text: string }) {
  return (
    <>
      <dt>{name}</dt>
      <dd className="number">{text}</dd>
    </>
  );
}
