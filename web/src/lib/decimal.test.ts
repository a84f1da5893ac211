import { describe, expect, it } from "vitest";
import { add, compare, isMultiple, multiply, parse, percent, pretty, subtract } from "./decimal";

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
});
