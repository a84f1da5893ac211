import { describe, expect, it } from "vitest";
import { applyUpdate, GapError, grouped, withTotals } from "./book";

const snapshot = {
  seq: "5",
  snapshot: true,
  bids: [
    { price: "99", quantity: "1" },
    { price: "98", quantity: "2" },
  ],
  asks: [{ price: "101", quantity: "3" }],
};

describe("the local book", () => {
  it("adds, changes and removes levels and keeps them sorted", () => {
    const book = applyUpdate(applyUpdate(null, snapshot), {
      seq: "6",
      prevSeq: "5",
      bids: [
        { price: "98.5", quantity: "4" },
        { price: "98", quantity: "0" },
      ],
      asks: [{ price: "100.5", quantity: "1" }],
    });
    expect(book.bids.map((l) => l.price)).toEqual(["99", "98.5"]);
    expect(book.asks.map((l) => l.price)).toEqual(["100.5", "101"]);
    expect(book.seq).toBe("6");
  });

  it("notices a missed delta", () => {
    const book = applyUpdate(null, snapshot);
    expect(() => applyUpdate(book, { seq: "8", prevSeq: "7" })).toThrow(GapError);
  });

  it("refuses a delta before any snapshot", () => {
    expect(() => applyUpdate(null, { seq: "6", prevSeq: "5" })).toThrow(GapError);
  });

  it("starts over at a snapshot", () => {
    const book = applyUpdate(applyUpdate(null, snapshot), { seq: "9", snapshot: true });
    expect(book).toEqual({ seq: "9", bids: [], asks: [] });
  });
});

describe("a grouped book", () => {
  it("never shows a better price than there is", () => {
    const levels = [
      { price: "100.07", quantity: "1" },
      { price: "100.02", quantity: "2" },
      { price: "99.99", quantity: "3" },
    ];
    expect(grouped(levels, "0.1", "bid")).toEqual([
      { price: "100", quantity: "3" },
      { price: "99.9", quantity: "3" },
    ]);
    expect(grouped([...levels].reverse(), "0.1", "ask")).toEqual([
      { price: "100", quantity: "3" },
      { price: "100.1", quantity: "3" },
    ]);
  });

  it("adds up from the best price on", () =>
    expect(
      withTotals([
        { price: "1", quantity: "0.1" },
        { price: "2", quantity: "0.2" },
      ]).map((row) => row.total),
    ).toEqual(["0.1", "0.3"]));
});
