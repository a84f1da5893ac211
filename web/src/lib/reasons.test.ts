import { describe, expect, it } from "vitest";
import { ending, explained } from "./reasons";

describe("a refusal", () => {
  it("is said in words, with what one can do", () => {
    expect(explained("NO_LIQUIDITY", "no liquidity")).toContain("A limit order can wait in the book.");
    expect(explained("FOK_NOT_FILLABLE", "fok not fillable")).toContain("cannot fill all of it");
    // As a preview has it.
    expect(explained("REASON_NO_LIQUIDITY", "no liquidity")).toBe(explained("NO_LIQUIDITY", "no liquidity"));
  });
  it("says the limit that was broken", () => {
    const said = "notional too small: min_notional is 1000";
    expect(explained("NOTIONAL_TOO_SMALL", said, { min_notional: "1000" })).toBe(
      "Worth less than this market takes (at least 1,000).",
    );
    expect(explained("PRICE_OUTSIDE_BAND", "price outside band", { min_price: "9", max_price: "11" })).toBe(
      "Too far from the price of now. The market takes 9 to 11.",
    );
    expect(explained("PRICE_OUTSIDE_BAND", "price outside band")).toBe("Too far from the price of now.");
  });
  it("stays in the exchange's own words where it has some", () => {
    expect(explained("PRICE_NOT_ON_TICK", "must be a multiple of 0.01")).toBe("must be a multiple of 0.01");
    expect(explained("OVERLOADED", "too many sign-ins at once; try again")).toBe("too many sign-ins at once; try again");
    expect(explained("", "The exchange answered 502.")).toBe("The exchange answered 502.");
    expect(explained("OF_TOMORROW", "of tomorrow")).toBe("of tomorrow");
  });
});

describe("the end of an order", () => {
  it("has a cause, or nothing to say", () => {
    expect(ending("REASON_SLIPPAGE_LIMIT_REACHED")).toBe("the rest was beyond the largest slippage");
    expect(ending("REASON_UNSPECIFIED")).toBe("");
    expect(ending(undefined)).toBe("");
    expect(ending("REASON_OF_TOMORROW")).toBe("of tomorrow");
  });
});
