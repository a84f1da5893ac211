import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { paced } from "./paced";

describe("pacing", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("draws the first change at once, the others together, and the last one always", () => {
    const draw = vi.fn();
    const changed = paced(draw, 100);
    changed();
    expect(draw).toHaveBeenCalledTimes(1);
    for (let at = 0; at < 50; at += 1) changed();
    expect(draw).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(100);
    expect(draw).toHaveBeenCalledTimes(2);
    vi.advanceTimersByTime(1000);
    expect(draw).toHaveBeenCalledTimes(2);
    changed();
    expect(draw).toHaveBeenCalledTimes(3);
  });

  it("draws at most ten times in a second of a thousand changes", () => {
    const draw = vi.fn();
    const changed = paced(draw, 100);
    for (let ms = 0; ms < 1000; ms += 1) {
      changed();
      vi.advanceTimersByTime(1);
    }
    expect(draw.mock.calls.length).toBeLessThanOrEqual(11);
  });

  it("draws nothing once it is stopped", () => {
    const draw = vi.fn();
    const changed = paced(draw, 100);
    changed();
    changed();
    changed.stop();
    vi.advanceTimersByTime(1000);
    expect(draw).toHaveBeenCalledTimes(1);
  });
});
