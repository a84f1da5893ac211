import { describe, expect, it } from "vitest";
import { applyAccount, NOTHING, summed } from "./account";

const snapshot = {
  seq: "5",
  snapshot: true,
  balances: [{ asset: "USDC", free: "1", held: "2" }],
  orders: [{ orderId: "1", status: "ORDER_STATUS_OPEN" as const }],
  positions: [{ market: "BTC_USDC_MARGIN", quantity: "-1" }],
  cfds: [{ cfdId: "4" }],
};

describe("the account", () => {
  it("drops what has ended", () => {
    const opened = applyAccount(NOTHING, snapshot);
    const state = applyAccount(opened ?? NOTHING, {
      seq: "6",
      prevSeq: "5",
      orders: [{ orderId: "1", status: "ORDER_STATUS_FILLED" }],
      positions: [{ market: "BTC_USDC_MARGIN", quantity: "0" }],
      cfds: [{ cfdId: "4", closeTime: "2026-01-01T00:00:00Z" }],
    });
    const account = summed(state ?? NOTHING);
    expect(account.openOrders).toEqual([]);
    expect(account.positions).toEqual([]);
    expect(account.cfds).toEqual([]);
    expect(account.balances.USDC?.held).toBe("2");
  });

  it("notices a missed message, and one before any snapshot", () => {
    const opened = applyAccount(NOTHING, snapshot);
    expect(applyAccount(opened ?? NOTHING, { seq: "9", prevSeq: "7" })).toBeNull();
    expect(applyAccount(NOTHING, { seq: "6", prevSeq: "5" })).toBeNull();
  });

  it("adds up the shards, each with its own sequence", () => {
    const one = applyAccount(NOTHING, snapshot) ?? NOTHING;
    const two = applyAccount(one, { ...snapshot, shard: 1, seq: "90", orders: [] }) ?? NOTHING;
    expect(summed(two).balances.USDC).toEqual({ asset: "USDC", free: "2", held: "4" });
    expect(summed(two).openOrders).toHaveLength(1);
    expect(applyAccount(two, { shard: 1, seq: "91", prevSeq: "90" })).not.toBeNull();
  });

  it("starts over at a snapshot", () => {
    const one = applyAccount(NOTHING, snapshot) ?? NOTHING;
    const again = applyAccount(one, { seq: "8", snapshot: true }) ?? NOTHING;
    expect(summed(again).positions).toEqual([]);
  });
});
