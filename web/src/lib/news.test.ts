import { describe, expect, it } from "vitest";
import { happened, liquidated } from "./news";

const waiting = {
  orderId: "7",
  market: "BTC_USDC",
  side: "SIDE_SELL" as const,
  type: "ORDER_TYPE_STOP_MARKET" as const,
  status: "ORDER_STATUS_UNTRIGGERED" as const,
};
const known = new Map([["7", waiting]]);

describe("what a person is told", () => {
  it("is what a waiting order did", () => {
    expect(
      happened(known, {
        orders: [{ ...waiting, status: "ORDER_STATUS_FILLED" }],
        fills: [{ orderId: "7", market: "BTC_USDC", side: "SIDE_SELL", price: "59000", quantity: "0.1" }],
      }),
    ).toEqual(["Stop market 7 in BTC/USDC was triggered.", "BTC/USDC: sold 0.1 at 59,000."]);
  });

  it("is why an order ended by itself, and not that the owner ended it", () => {
    const ended = { ...waiting, status: "ORDER_STATUS_CANCELLED" as const };
    expect(happened(known, { orders: [{ ...ended, closeReason: "REASON_INSUFFICIENT_MARGIN" }] })).toEqual([
      "Stop market 7 in BTC/USDC ended: what was available did not carry the margin.",
    ]);
    expect(happened(known, { orders: [{ ...ended, closeReason: "REASON_CANCELLED_BY_USER" }] })).toEqual([]);
  });

  it("is how a contract and a position closed", () => {
    expect(
      happened(undefined, {
        cfds: [
          {
            cfdId: "3",
            market: "SOL_USDC_CFD",
            closeTime: "2026-01-01T00:00:00Z",
            closeReason: "CFD_CLOSE_REASON_STOP_LOSS",
            exitPrice: "149.5",
            realisedPnl: "-2.5",
          },
        ],
        positions: [{ market: "BTC_USDC_MARGIN", quantity: "0", realisedPnl: "1.25" }],
      }),
    ).toEqual([
      "BTC/USDC Margin: your position is closed, profit +1.25.",
      "SOL/USDC CFD 3 closed by stop loss at 149.5, profit -2.5.",
    ]);
  });

  it("is that a position was liquidated, at which price, how much of it and what is left; not that it closed", () => {
    const news = {
      liquidations: [
        { market: "BTC_USDC_MARGIN", quantity: "-0.5", markPrice: "61250.5", margin: "3000", returned: "12.25" },
      ],
      positions: [
        { market: "BTC_USDC_MARGIN", quantity: "0", realisedPnl: "-2987.75" },
        { market: "SOL_USDC_MARGIN", quantity: "0", realisedPnl: "1" },
      ],
    };
    expect(liquidated(news)).toEqual([
      "BTC/USDC Margin: your short position of 0.5 was liquidated at a mark price of 61,250.5. " +
        "Of its margin of 3,000, 12.25 came back.",
    ]);
    expect(happened(undefined, news)).toEqual(["SOL/USDC Margin: your position is closed, profit +1."]);
    expect(liquidated({ ...news, snapshot: true })).toEqual([]);
  });

  it("is that a contract was liquidated, once", () => {
    const news = {
      liquidations: [
        {
          market: "SOL_USDC_CFD",
          cfdId: "3",
          side: "SIDE_BUY" as const,
          entryNotional: "1000",
          margin: "100",
          markPrice: "90.3",
          returned: "0",
        },
      ],
      cfds: [
        {
          cfdId: "3",
          market: "SOL_USDC_CFD",
          side: "SIDE_BUY" as const,
          notional: "1000",
          closeTime: "2026-01-01T00:00:00Z",
          closeReason: "CFD_CLOSE_REASON_LIQUIDATION" as const,
          exitPrice: "90.3",
          realisedPnl: "-97",
        },
      ],
    };
    expect(liquidated(news)).toEqual([
      "SOL/USDC CFD 3, long for 1,000, was liquidated at 90.3. Of its margin of 100, 0 came back.",
    ]);
    expect(happened(undefined, news)).toEqual([]);
  });

  it("is nothing of what was just asked for, and nothing of the past", () => {
    const filled = { ...waiting, status: "ORDER_STATUS_FILLED" as const };
    expect(happened(new Map(), { orders: [filled], fills: [{ orderId: "7" }] })).toEqual([]);
    expect(happened(known, { snapshot: true, orders: [filled] })).toEqual([]);
  });
});
