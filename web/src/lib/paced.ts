/** Pacing: what changes many times a second is drawn a few times a second. */

/** Often enough to look live, seldom enough to leave the page responsive. */
export const DRAW_EVERY_MS = 100;
/** Prices of all markets at once: nobody reads them faster. */
export const PRICES_EVERY_MS = 250;

export interface Paced {
  /** Something changed: `draw` runs now, or when its turn comes. */
  (): void;
  /** Nothing is drawn any more. */
  stop(): void;
}

/** Calls `draw` at once and then at most every `ms` milliseconds, the last time after the last change. */
export function paced(draw: () => void, ms = DRAW_EVERY_MS): Paced {
  let timer: ReturnType<typeof setTimeout> | null = null;
  let waiting = false;
  let stopped = false;
  const run = () => {
    waiting = false;
    timer = setTimeout(() => {
      timer = null;
      if (waiting) run();
    }, ms);
    draw();
  };
  const changed = () => {
    if (stopped) return;
    if (timer === null) run();
    else waiting = true;
  };
  changed.stop = () => {
    stopped = true;
    if (timer !== null) clearTimeout(timer);
  };
  return changed;
}
