import { describe, expect, it } from "vitest";
import { ApiError } from "./api";
import { newId, Once } from "./once";

const order = { market: "BTC_USDC", quantity: "1" };
const lost = new ApiError("The exchange cannot be reached.", 0, "", "");
const refused = new ApiError("no", 400, "INVALID_ARGUMENT", "price");

async function ids(...outcomes: readonly (Error | object)[]): Promise<string[]> {
  const once = new Once();
  const used: string[] = [];
  for (const outcome of outcomes) {
    const send = async (id: string) => {
      used.push(id);
      if (outcome instanceof Error) throw outcome;
    };
    await once.call(outcome instanceof Error ? order : { ...order, ...outcome }, send).catch(() => undefined);
  }
  return used;
}

describe("a request that is sent again", () => {
  it("keeps its id while its outcome is unknown", async () => {
    const [first, second, third] = await ids(lost, {}, {});
    expect(second).toBe(first);
    expect(third).not.toBe(first);
  });

  it("is a new one after an answer, whatever it was", async () => {
    const [first, second] = await ids(refused, {});
    expect(second).not.toBe(first);
  });

  it("is a new one when it says something else", async () => {
    const [first, second] = await ids(lost, { quantity: "2" });
    expect(second).not.toBe(first);
  });

  it("has an id that every contract takes", () => expect(newId()).toMatch(/^[0-9a-f]{32}$/));
});
