import type { BookUpdateJson, LevelJson } from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { add, ceilTo, compare, floorTo } from "./decimal";

/** A local order book kept by snapshots and deltas; immutable, so that React sees each change. */
export interface Book {
  readonly seq: string;
  /** Best first. */
  readonly bids: readonly LevelJson[];
  /** Best first. */
  readonly asks: readonly LevelJson[];
}

/** The delta does not follow the book: something was missed and a snapshot is needed. */
export class GapError extends Error {}

/**
 * The book after `update`.
 *
 * @throws GapError if the update's prevSeq is not the book's seq.
 */
export function applyUpdate(book: Book | null, update: BookUpdateJson): Book {
  const seq = update.seq ?? "0";
  if (update.snapshot) return { seq, bids: update.bids ?? [], asks: update.asks ?? [] };
  if (book === null || book.seq !== (update.prevSeq ?? "0")) {
    throw new GapError(`book at ${book?.seq ?? "nothing"}, delta follows ${update.prevSeq}`);
  }
  return {
    seq,
    bids: merge(book.bids, update.bids ?? [], -1),
    asks: merge(book.asks, update.asks ?? [], 1),
  };
}

/** `order` is 1 for rising prices (asks), -1 for falling ones (bids). */
function merge(
  levels: readonly LevelJson[],
  changes: readonly LevelJson[],
  order: number,
): readonly LevelJson[] {
  if (changes.length === 0) return levels;
  const merged = [...levels];
  for (const change of changes) {
    const at = place(merged, change.price ?? "0", order);
    const known = at < merged.length && compare(merged[at]?.price ?? "0", change.price ?? "0") === 0;
    if (compare(change.quantity ?? "0", "0") > 0) merged.splice(at, known ? 1 : 0, change);
    else if (known) merged.splice(at, 1);
  }
  return merged;
}

/** Where `price` is, or would be, among sorted levels. */
function place(levels: readonly LevelJson[], price: string, order: number): number {
  let [from, to] = [0, levels.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (order * compare(levels[middle]?.price ?? "0", price) < 0) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** The first `most` groups of `step`, added up: bids to the step below, asks to the one above. */
export function grouped(
  levels: readonly LevelJson[],
  step: string,
  side: "bid" | "ask",
  most = levels.length,
): LevelJson[] {
  const groups: LevelJson[] = [];
  for (const { price = "0", quantity = "0" } of levels) {
    const at = side === "bid" ? floorTo(price, step) : ceilTo(price, step);
    const last = groups.at(-1);
    if (last?.price === at) last.quantity = add(last.quantity ?? "0", quantity);
    else if (groups.length === most) break;
    else groups.push({ price: at, quantity });
  }
  return groups;
}

export interface Row {
  readonly price: string;
  readonly quantity: string;
  /** Of this level and all better ones. */
  readonly total: string;
}

export function withTotals(levels: readonly LevelJson[]): Row[] {
  let total = "0";
  return levels.map(({ price = "0", quantity = "0" }) => {
    total = add(total, quantity);
    return { price, quantity, total };
  });
}
