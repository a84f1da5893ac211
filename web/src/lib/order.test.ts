import { describe, expect, it } from "vitest";
import { BLANK, isComplete, problemsOf, share, spendsQuote, toOco, toOrder } from "./order";

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
    const wrong = (change: Partial<typeof BLANK>) => {
      const found = problemsOf({ ...limit, ...change }, market)[0];
      return found ? `${found.field}: ${found.text}` : null;
    };
    expect(wrong({})).toBeNull();
    expect(wrong({ price: "100.001" })).toContain("price: It must be a multiple of 0.01");
    expect(wrong({ quantity: "-1" })).toContain("quantity: Not a plain number");
    expect(wrong({ quantity: "1e3" })).toContain("quantity: Not a plain number");
    expect(wrong({ quantity: "0.000001" })).toContain("multiple of 0.00001");
    expect(wrong({ quantity: "0" })).toContain("zero");
    expect(wrong({ price: "64,123" })).toContain("write 64123 or 64.123");
    expect(wrong({ type: "OCO", trigger: "90", stopPrice: "0.001" })).toContain("stop_price");
    expect(wrong({ type: "ORDER_TYPE_TRAILING_STOP", trailingPercent: "1.234" })).toContain("trailing_bps");
    // What this type does not have is not looked at.
    expect(wrong({ trigger: "x" })).toBeNull();
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

  it("leaves room for the protection of what trades at market, where that is", () => {
    // 1000 / (200 x 1.05 x 1.002): the trigger counts, not the book of now.
    const stop = { ...limit, type: "ORDER_TYPE_STOP_MARKET" as const, trigger: "200" };
    expect(share("1000", "100", stop, market, "100", "1")).toBe("4.75239");
    // 1000 / (100 x 1.02 x 1.05 x 1.002)
    const trailing = { ...limit, type: "ORDER_TYPE_TRAILING_STOP" as const, trailingPercent: "2" };
    expect(share("1000", "100", trailing, market, "100", "1")).toBe("9.31843");
    const all = { ...limit, type: "ORDER_TYPE_MARKET" as const };
    expect(spendsQuote(all, { ...market, kind: "MARKET_KIND_SPOT" })).toBe(true);
    expect(spendsQuote({ ...all, side: "SIDE_SELL" }, { ...market, kind: "MARKET_KIND_SPOT" })).toBe(false);
    expect(share("1000", "100", { ...all, byQuote: true }, market, "100", "1")).toBe("1000");
  });
});
