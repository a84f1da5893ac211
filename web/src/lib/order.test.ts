import { describe, expect, it } from "vitest";
import { BLANK, isComplete, problemOf, share, toOco, toOrder } from "./order";

const market = {
  market: "BTC_USDC",
  kind: "MARKET_KIND_SPOT" as const,
  tickSize: "0.01",
  lotSize: "0.00001",
  makerFeeBps: 10,
  takerFeeBps: 20,
};
const limit = { ...BLANK, price: "100", quantity: "0.5" };

describe("an order from the form", () => {
  it("says only what its type has", () => {
    expect(toOrder(limit, market)).toEqual({
      market: "BTC_USDC",
      side: "SIDE_BUY",
      type: "ORDER_TYPE_LIMIT",
      quantity: "0.5",
      price: "100",
      timeInForce: "TIME_IN_FORCE_GTC",
    });
    expect(toOrder({ ...limit, type: "ORDER_TYPE_MARKET", byQuote: true }, market)).toEqual({
      market: "BTC_USDC",
      side: "SIDE_BUY",
      type: "ORDER_TYPE_MARKET",
      quoteAmount: "0.5",
    });
    expect(toOrder({ ...limit, type: "ORDER_TYPE_TRAILING_STOP", trailingPercent: "1.5" }, market)).toMatchObject({
      trailingBps: 150,
      triggerSource: "TRIGGER_SOURCE_LAST",
    });
  });

  it("makes a pair of which one cancels the other", () => {
    const pair = toOco({ ...limit, type: "OCO", side: "SIDE_SELL", trigger: "90", stopPrice: "89" }, market);
    expect(pair.first).toMatchObject({ type: "ORDER_TYPE_LIMIT", price: "100" });
    expect(pair.second).toMatchObject({ type: "ORDER_TYPE_STOP_LIMIT", triggerPrice: "90", price: "89" });
  });

  it("is told what is wrong before it is sent", () => {
    expect(problemOf(limit, market)).toBe("");
    expect(problemOf({ ...limit, price: "100.001" }, market)).toContain("multiple of 0.01");
    expect(problemOf({ ...limit, quantity: "-1" }, market)).toContain("plain number");
    expect(problemOf({ ...limit, quantity: "0" }, market)).toContain("zero");
    expect(isComplete({ ...limit, quantity: "" })).toBe(false);
    expect(isComplete({ ...limit, type: "ORDER_TYPE_STOP_MARKET" })).toBe(false);
  });

  it("spends all there is and never more", () => {
    // 1000 / (100 x 1.002) = 9.98003...
    expect(share("1000", "100", limit, market, "", "1")).toBe("9.98003");
    expect(share("1.234567", "50", { ...limit, side: "SIDE_SELL" }, market, "", "1")).toBe("0.61728");
    const margin = { ...market, kind: "MARKET_KIND_MARGIN" as const };
    // 1000 / (100 x (1/10 + 0.002))
    expect(share("1000", "100", limit, margin, "", "10")).toBe("98.03921");
  });
});
