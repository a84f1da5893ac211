import { describe, expect, it } from "vitest";
import { cfdExit, cfdProfit, entryPrice, positionProfit } from "./profit";

const short = {
  side: "SIDE_SELL" as const,
  entryPrice: "235.95",
  margin: "5000",
  notional: "500000",
};

describe("profit", () => {
  it("of the CFD in the trading rules", () => {
    expect(cfdProfit(short, "235.74")).toBe("445.00953591");
    expect(cfdProfit({ ...short, side: "SIDE_BUY" }, "235.74")).toBe("-445.00953592");
  });
  it("of a CFD never costs more than its margin", () => expect(cfdProfit(short, "300")).toBe("-5000"));
  it("of a CFD counts the price it would close at", () => {
    const price = { bid: "10", ask: "11" };
    expect(cfdExit(short, price)).toBe("11");
    expect(cfdExit({ ...short, side: "SIDE_BUY" }, price)).toBe("10");
    expect(cfdExit({ ...short, exitPrice: "9" }, undefined)).toBe("9");
  });
  it("of a CFD follows the index of a feed that has no quotes", () => {
    expect(cfdExit({ ...short, exitPrice: "9" }, { price: "10.5" })).toBe("10.5");
    expect(cfdExit({ ...short, side: "SIDE_BUY", exitPrice: "9" }, { price: "10.5", bid: "" })).toBe("10.5");
  });
  it("of a position on either side", () => {
    const long = { quantity: "2", entryNotional: "100" };
    expect(positionProfit(long, "60")).toBe("20");
    expect(positionProfit({ ...long, quantity: "-2" }, "60")).toBe("-20");
    expect(entryPrice(long, 2)).toBe("50");
  });
});
