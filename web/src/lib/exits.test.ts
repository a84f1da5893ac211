import { describe, expect, it } from "vitest";
import { ApiError } from "./api";
import { exitsOf, planExits, refusedExit } from "./exits";

const position = { market: "BTC_USDC_MARGIN", quantity: "-0.5" };
const waiting = {
  market: "BTC_USDC_MARGIN",
  side: "SIDE_BUY" as const,
  status: "ORDER_STATUS_UNTRIGGERED" as const,
  reduceOnly: true,
  quantity: "0.5",
};
const stop = { ...waiting, orderId: "1", type: "ORDER_TYPE_STOP_MARKET" as const, triggerPrice: "70000", ocoOrderId: "2" };
const profit = {
  ...waiting,
  orderId: "2",
  type: "ORDER_TYPE_TAKE_PROFIT_MARKET" as const,
  triggerPrice: "50000",
  ocoOrderId: "1",
};

describe("the exits of a position", () => {
  it("are the reduce-only orders that wait on its other side", () => {
    expect(exitsOf(position, [stop, profit])).toEqual({ stop, profit });
    expect(exitsOf(position, [{ ...stop, side: "SIDE_SELL" }, { ...profit, reduceOnly: false }])).toEqual({});
    expect(exitsOf(position, [{ ...stop, market: "ETH_USDC_MARGIN" }, { ...profit, status: "ORDER_STATUS_OPEN" }])).toEqual({});
  });

  it("are amended where they stay, also to a position that has grown", () => {
    expect(planExits(position, { stop, profit }, "71000", "50000.0")).toEqual({
      amend: [{ orderId: "1", triggerPrice: "71000" }],
      place: [],
      cancel: [],
    });
    expect(planExits({ ...position, quantity: "-0.7" }, { stop }, "70000", "").amend).toEqual([{ orderId: "1", quantity: "0.7" }]);
  });

  it("are placed anew as a pair that grows with the position, whose quantity cannot change", () => {
    const plan = planExits({ ...position, quantity: "-0.7" }, { stop, profit }, "70000", "50000");
    expect(plan).toMatchObject({ amend: [], place: [{ quantity: "0.7" }, { quantity: "0.7" }], cancel: ["1"] });
  });

  it("are refused at the field that asked for them", () => {
    const refusal = (field: string) => new ApiError(`${field}: must be above`, 400, "TRIGGER_ON_WRONG_SIDE", field);
    const of = (field: string, ...orders: (typeof stop | typeof profit)[]) => refusedExit(refusal(field), orders);
    expect(of("first.trigger_price", profit, stop)).toMatchObject({ field: "take_profit", message: "must be above" });
    expect(of("second.trigger_price", profit, stop)).toMatchObject({ field: "stop_loss" });
    expect(of("trigger_price", stop)).toMatchObject({ field: "stop_loss", reason: "TRIGGER_ON_WRONG_SIDE" });
    expect(of("first.quantity", profit, stop)).toMatchObject({ field: "first.quantity" });
  });

  it("are placed anew before the old ones are cancelled", () => {
    const plan = planExits(position, { stop, profit }, "70000", "");
    expect(plan.place).toMatchObject([{ type: "ORDER_TYPE_STOP_MARKET", side: "SIDE_BUY", quantity: "0.5", reduceOnly: true }]);
    // They are a pair: the other goes with the one.
    expect(plan.cancel).toEqual(["1"]);
    expect(planExits(position, { stop: { ...stop, ocoOrderId: "0" } }, "70000", "50000")).toMatchObject({
      place: [{ type: "ORDER_TYPE_TAKE_PROFIT_MARKET" }, { type: "ORDER_TYPE_STOP_MARKET" }],
      cancel: ["1"],
    });
  });

  it("end when nothing is wished", () =>
    expect(planExits(position, { stop, profit }, "", "")).toEqual({ amend: [], place: [], cancel: ["1"] }));
});
