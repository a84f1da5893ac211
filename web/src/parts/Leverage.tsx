import { useMutation } from "@tanstack/react-query";
import { useEffect } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { PositionJson, SetLeverageResponseJson } from "../gen/tidebook/engine/v1/position_pb";
import { post } from "../lib/api";
import { useRemembered } from "../lib/page";
import { wholeNumber } from "../lib/screen";
import { Problem } from "./Problem";

const STEPS = [1, 2, 3, 5, 10, 20, 25, 50, 75, 100];

interface SliderProps {
  most: number;
  leverage: string;
  onLeverage: (leverage: string) => void;
}

export function LeverageChoice({ most, leverage, onLeverage }: SliderProps) {
  const steps = STEPS.filter((step) => step <= most).map(String);
  if (!steps.includes(leverage)) steps.push(leverage);
  return (
    <label>
      <span>
        Leverage <small>up to {most}x</small>
      </span>
      <select value={leverage} onChange={(event) => onLeverage(event.target.value)}>
        {steps.map((step) => (
          <option key={step} value={step}>
            {step}x
          </option>
        ))}
      </select>
    </label>
  );
}

const REMEMBERED = Array.from({ length: 1000 }, (_, at) => String(at + 1));

/** The leverage that was chosen last in a margin market. */
export const useLeverage = (market: string) => useRemembered(`leverage.${market}`, "10", REMEMBERED);

interface Props {
  market: MarketJson;
  position: PositionJson | undefined;
  leverage: string;
  onLeverage: (leverage: string) => void;
}

/** The leverage of new orders in a margin market; the exchange keeps it per market. */
export function Leverage({ market, position, leverage, onLeverage }: Props) {
  const name = market.market ?? "";
  const { mutate, error } = useMutation({
    mutationFn: (wish: string) =>
      post<SetLeverageResponseJson>(`/v1/positions/${name}:setLeverage`, { leverage: wholeNumber(wish) }),
    onSuccess: (answer) => onLeverage(String(answer.leverage ?? 1)),
  });
  const inForce = position?.leverage;
  useEffect(() => {
    if (inForce) onLeverage(String(inForce));
    // Without a position nobody tells which leverage is in force, so the page says what it shows.
    else mutate(leverage);
    // Only when the market or its position changes: `leverage` itself is what this sets.
  }, [name, inForce, mutate, onLeverage]);
  return (
    <div className="leverage">
      <LeverageChoice most={market.maxLeverage ?? 1} leverage={leverage} onLeverage={mutate} />
      <p className="hint">Isolated margin: a position can lose its own margin and no more.</p>
      <Problem error={error} />
    </div>
  );
}
