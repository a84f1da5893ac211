import { describe, expect, it } from "vitest";
import {
  absolute,
  add,
  basisPoints,
  bpsOfPercent,
  ceilTo,
  compare,
  cut,
  divide,
  floorTo,
  isMultiple,
  multiply,
  negate,
  parse,
  percentOfBps,
  pretty,
  subtract,
  typed,
} from "./decimal";
import { percent, screenNumber } from "./screen";

describe("exact decimals", () => {
  it("adds what floats cannot", () => expect(add("0.1", "0.2")).toBe("0.3"));
  it("subtracts below zero", () => expect(subtract("1", "2.5")).toBe("-1.5"));
  it("multiplies a price and a quantity exactly", () =>
    expect(multiply("50000.01", "0.00001")).toBe("0.5000001"));
  it("compares across scales", () => {
    expect(compare("1.10", "1.1")).toBe(0);
    expect(compare("9", "10")).toBe(-1);
    expect(compare("-1", "-2")).toBe(1);
  });
  it("keeps eighteen decimals", () =>
    expect(add("0.000000000000000001", "1")).toBe("1.000000000000000001"));
  it("knows a step", () => {
    expect(isMultiple("0.03", "0.01")).toBe(true);
    expect(isMultiple("0.035", "0.01")).toBe(false);
  });
  it.each(["", "1e5", "1,5", ".5", "1.", " 1", "NaN", "0x1"])("refuses %j", (text) =>
    expect(parse(text)).toBeNull(),
  );
  it("separates thousands and pads to the tick", () => {
    expect(pretty("1234567.5", "0.01")).toBe("1,234,567.50");
    expect(pretty("-1234", "1")).toBe("-1,234");
    expect(pretty(undefined)).toBe("–");
  });
  it("gives a bar its width", () => expect(percent("1", "8")).toBe(12.5));
  it("divides towards zero", () => {
    expect(divide("10", "3", 2)).toBe("3.33");
    expect(divide("-10", "3", 2)).toBe("-3.33");
    expect(divide("1", "8", 8)).toBe("0.125");
  });
  it("rounds to a step away from or towards the book", () => {
    expect(floorTo("100.07", "0.05")).toBe("100.05");
    expect(ceilTo("100.07", "0.05")).toBe("100.1");
    expect(floorTo("-0.07", "0.05")).toBe("-0.1");
    expect(ceilTo("100.1", "0.1")).toBe("100.1");
  });
  it("cuts, negates and takes the size", () => {
    expect(cut("1.23456789", 2)).toBe("1.23");
    expect(negate("-0")).toBe("0");
    expect(absolute("-2.50")).toBe("2.5");
  });
  it("speaks in basis points and percent", () => {
    expect(basisPoints("1", "8")).toBe(1250n);
    expect(basisPoints("1", "0")).toBe(0n);
    expect(percentOfBps(-5)).toBe("-0.05%");
    expect(percentOfBps(1250n)).toBe("+12.50%");
    expect(bpsOfPercent("1.5")).toBe(150n);
    expect(bpsOfPercent("1.555")).toBeNull();
  });
  it("makes drawings only of what can be drawn", () => {
    expect(screenNumber("12.5")).toBe(12.5);
    expect(screenNumber("")).toBeNull();
  });
});

describe("what is typed", () => {
  it("takes a comma for a point while typing", () => {
    expect(typed("0", "0,")).toBe("0.");
    expect(typed("", " 0,5 ")).toBe("0.5");
    expect(typed("64.12", "64.123")).toBe("64.123");
  });
  it("takes pasted thousands as such", () => {
    expect(typed("", "64,123.45")).toBe("64123.45");
    expect(typed("", "1,234,567")).toBe("1234567");
    expect(typed("", "1 234.5")).toBe("1234.5");
  });
  it("does not guess what can mean two things", () => expect(parse(typed("", "64,123"))).toBeNull());
  it("leaves what is no decimal for the refusal", () => {
    for (const text of ["1e3", "1.2.3", "0x10", "1,2,3", "-", "abc", "Infinity"]) expect(parse(typed("", text))).toBeNull();
  });
});
