import { useId } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { SelfTradePreventionJson, TimeInForceJson } from "../gen/tidebook/engine/v1/types_pb";
import { kindOf } from "../lib/names";
import { type Draft, hasPrice, waits } from "../lib/order";
import { Choice, DecimalField } from "./Basics";

const LIVES: readonly (readonly [TimeInForceJson, string])[] = [
  ["TIME_IN_FORCE_GTC", "Good till cancelled"],
  ["TIME_IN_FORCE_GTD", "Good till a time"],
  ["TIME_IN_FORCE_IOC", "Immediate or cancel"],
  ["TIME_IN_FORCE_FOK", "Fill or kill"],
];

const SELF_TRADES: readonly (readonly [SelfTradePreventionJson, string])[] = [
  ["SELF_TRADE_PREVENTION_CANCEL_TAKER", "Cancel the new order"],
  ["SELF_TRADE_PREVENTION_CANCEL_MAKER", "Cancel the resting order"],
  ["SELF_TRADE_PREVENTION_CANCEL_BOTH", "Cancel both"],
  ["SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL", "Shrink both"],
];

interface Props {
  draft: Draft;
  market: MarketJson;
  set: (change: Partial<Draft>) => void;
}

/** What most orders leave as it is. */
export function OrderOptions({ draft, market, set }: Props) {
  const priced = hasPrice(draft.type);
  const id = useId();
  return (
    <details>
      <summary>More options</summary>
      <div className="options">
        {waits(draft.type) && (
          <div className="tabs" role="group" aria-label="Fired by the">
            <small>Fired by</small>
            <Choice
              name="Last price"
              on={draft.triggerSource === "TRIGGER_SOURCE_LAST"}
              choose={() => set({ triggerSource: "TRIGGER_SOURCE_LAST" })}
            />
            <Choice
              name="Mark price"
              on={draft.triggerSource === "TRIGGER_SOURCE_MARK"}
              choose={() => set({ triggerSource: "TRIGGER_SOURCE_MARK" })}
            />
          </div>
        )}
        {priced && (
          <label>
            Time in force
            <select
              value={draft.timeInForce}
              onChange={(event) =>
                set({ timeInForce: LIVES.find(([name]) => name === event.target.value)?.[0] ?? "TIME_IN_FORCE_GTC" })
              }
            >
              {LIVES.map(([name, text]) => (
                <option key={name} value={name}>
                  {text}
                </option>
              ))}
            </select>
          </label>
        )}
        {priced && draft.timeInForce === "TIME_IN_FORCE_GTD" && (
          <label htmlFor={id}>
            Expires
            <input
              id={id}
              type="datetime-local"
              required
              value={draft.expires}
              onChange={(event) => set({ expires: event.target.value })}
            />
          </label>
        )}
        {priced && (
          <label className="inline">
            <input
              type="checkbox"
              checked={draft.postOnly}
              onChange={(event) => set({ postOnly: event.target.checked })}
            />
            Post only
          </label>
        )}
        {kindOf(market) === "margin" && (
          <label className="inline">
            <input
              type="checkbox"
              checked={draft.reduceOnly}
              onChange={(event) => set({ reduceOnly: event.target.checked })}
            />
            Reduce only
          </label>
        )}
        {priced && (
          <DecimalField
            label="Iceberg: show only"
            suffix={market.baseAsset}
            placeholder="all of it"
            value={draft.display}
            onChange={(display) => set({ display })}
          />
        )}
        {!priced && (
          <DecimalField
            label="Largest slippage"
            suffix="%"
            placeholder="5"
            value={draft.slippagePercent}
            onChange={(slippagePercent) => set({ slippagePercent })}
          />
        )}
        <label>
          Against an order of your own
          <select
            value={draft.selfTrade}
            onChange={(event) =>
              set({ selfTrade: SELF_TRADES.find(([name]) => name === event.target.value)?.[0] ?? draft.selfTrade })
            }
          >
            {SELF_TRADES.map(([name, text]) => (
              <option key={name} value={name}>
                {text}
              </option>
            ))}
          </select>
        </label>
      </div>
    </details>
  );
}
