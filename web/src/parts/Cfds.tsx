import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { CfdJson } from "../gen/tidebook/engine/v1/position_pb";
import type { PriceJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { patch, post } from "../lib/api";
import { pretty } from "../lib/decimal";
import type { ByMarket } from "../lib/hooks";
import { marketTitle } from "../lib/names";
import { stepProblem } from "../lib/order";
import { cfdExit, cfdProfit, liquidationText } from "../lib/profit";
import { DecimalField, Return, SideName, Table } from "./Basics";
import { EditDialog } from "./EditDialog";
import { Problem, refusalOf } from "./Problem";

interface Props {
  cfds: readonly CfdJson[];
  byName: Record<string, MarketJson>;
  prices: ByMarket<PriceJson>;
}

const HEAD = ["Market", ">Margin", ">Entry / now", ">Liquidation", ">Profit (return)", "Stop / profit", "!Actions"];

export function Cfds({ cfds, byName, prices }: Props) {
  const close = useMutation({ mutationFn: (id: string) => post(`/v1/cfds/${id}:close`, {}) });
  const [editing, setEditing] = useState<CfdJson | null>(null);
  if (cfds.length === 0) return <p className="notice">No open CFDs. They are opened in the CFD markets.</p>;
  return (
    <>
      <Table label="CFDs" head={HEAD}>
        {cfds.map((cfd) => {
          const { market = "", cfdId = "", margin = "0" } = cfd;
          const tick = byName[market]?.tickSize ?? "1";
          const exit = cfdExit(cfd, prices[market]);
          const profit = cfdProfit(cfd, exit);
          return (
            <tr key={cfdId}>
              <td>
                {marketTitle(market)}
                <div>
                  <SideName side={cfd.side} long /> <small>{cfd.leverage}x</small>
                </div>
              </td>
              <td className="number">{pretty(margin)}</td>
              <td className="number">
                {pretty(cfd.entryPrice, tick)}
                <div>{pretty(exit, tick)}</div>
              </td>
              <td className="number">{liquidationText(cfd.liquidationPrice, tick)}</td>
              <td className="number">
                <Return profit={profit} margin={margin} unit={byName[market]?.quoteAsset} />
              </td>
              <td>
                <button
                  type="button"
                  className="quiet exits"
                  onClick={() => setEditing(cfd)}
                >
                  <span className="hidden">Stop loss and take profit of CFD {cfdId}: </span>
                  <span>{cfd.stopLoss ? pretty(cfd.stopLoss, tick) : "no stop"}</span>
                  <span>{cfd.takeProfit ? pretty(cfd.takeProfit, tick) : "no profit"}</span>
                </button>
              </td>
              <td className="actions">
                <button
                  type="button"
                  className="quiet"
                  aria-label={`Close CFD ${cfdId}`}
                  disabled={close.isPending && close.variables === cfdId}
                  onClick={() => close.mutate(cfdId)}
                >
                  Close
                </button>
              </td>
            </tr>
          );
        })}
      </Table>
      <Problem error={close.error} />
      {editing && <Triggers cfd={editing} tick={byName[editing.market ?? ""]?.tickSize ?? "1"} onClose={() => setEditing(null)} />}
    </>
  );
}

function Triggers({ cfd, tick, onClose }: { cfd: CfdJson; tick: string; onClose: () => void }) {
  const [stopLoss, setStopLoss] = useState(cfd.stopLoss ?? "");
  const [takeProfit, setTakeProfit] = useState(cfd.takeProfit ?? "");
  const save = useMutation({
    mutationFn: () => patch(`/v1/cfds/${cfd.cfdId}`, { stopLoss, takeProfit }),
    onSuccess: onClose,
  });
  const wrong = [stepProblem(stopLoss, tick), stepProblem(takeProfit, tick)] as const;
  return (
    <EditDialog
      title={`CFD ${cfd.cfdId}: where it closes by itself`}
      send={save}
      fields={["stop_loss", "take_profit"]}
      button="Save"
      good={wrong.every((text) => text === "")}
      onClose={onClose}
    >
      <DecimalField
        label="Stop loss"
        hint="empty for none"
        value={stopLoss}
        problem={wrong[0] || refusalOf(save.error, "stop_loss")}
        onChange={setStopLoss}
      />
      <DecimalField
        label="Take profit"
        hint="empty for none"
        value={takeProfit}
        problem={wrong[1] || refusalOf(save.error, "take_profit")}
        onChange={setTakeProfit}
      />
    </EditDialog>
  );
}
