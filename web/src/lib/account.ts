/** The signed-in user's account, kept by the private channel of the WebSocket. */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import type {
  BalanceJson,
  FillJson,
  OrderJson,
  WatchAccountResponseJson,
} from "../gen/tidebook/engine/v1/order_pb";
import type { CfdJson, PositionJson } from "../gen/tidebook/engine/v1/position_pb";
import { refreshSession } from "./api";
import { add, isZero } from "./decimal";
import { useSocket } from "./hooks";
import { happened, liquidated } from "./news";

const FILLS_SHOWN = 50;
const LIVE = new Set(["ORDER_STATUS_OPEN", "ORDER_STATUS_PARTIALLY_FILLED", "ORDER_STATUS_UNTRIGGERED"]);
// The access token has run out; the refresh token gives another.
const SIGN_IN_AGAIN = new Set(["REASON_TOKEN_EXPIRED", "REASON_UNAUTHENTICATED", "REASON_TOKEN_INVALID"]);

export interface Account {
  /** A snapshot has arrived. */
  readonly ready: boolean;
  readonly balances: Readonly<Record<string, BalanceJson>>;
  /** Newest first. */
  readonly openOrders: readonly OrderJson[];
  readonly positions: readonly PositionJson[];
  /** Newest first. */
  readonly cfds: readonly CfdJson[];
  /** Of this visit, newest first. */
  readonly fills: readonly FillJson[];
  /** What can be spent on each shard, by asset; an order can only use that of its market's shard. */
  readonly shards: ReadonlyMap<number, ReadonlyMap<string, BalanceJson>>;
}

/** What an order in a market of `shard` can spend. */
export function freeOn(account: Account, shard: number | undefined, asset: string | undefined): string {
  return account.shards.get(shard ?? 0)?.get(asset ?? "")?.free || "0";
}

/** What one engine shard has told. */
interface Shard {
  readonly seq: string;
  readonly balances: ReadonlyMap<string, BalanceJson>;
  readonly orders: ReadonlyMap<string, OrderJson>;
  readonly positions: ReadonlyMap<string, PositionJson>;
  readonly cfds: ReadonlyMap<string, CfdJson>;
}

/** Everything told so far, by shard; immutable. */
export interface AccountState {
  readonly shards: ReadonlyMap<number, Shard>;
  readonly fills: readonly FillJson[];
}

export const NOTHING: AccountState = { shards: new Map(), fills: [] };
const EMPTY: Shard = { seq: "0", balances: new Map(), orders: new Map(), positions: new Map(), cfds: new Map() };

/** `old` with `news`; null when a message between them was missed. */
export function applyAccount(old: AccountState, news: WatchAccountResponseJson): AccountState | null {
  const number = news.shard ?? 0;
  const before = news.snapshot ? EMPTY : old.shards.get(number);
  if (before === undefined) return null;
  if (!news.snapshot && (news.prevSeq ?? "0") !== before.seq) return null;
  const shard: Shard = {
    seq: news.seq ?? "0",
    balances: merged(before.balances, news.balances, (row) => row.asset, () => true),
    orders: merged(before.orders, news.orders, (row) => row.orderId, (row) => LIVE.has(row.status ?? "")),
    positions: merged(before.positions, news.positions, (row) => row.market, (row) => !isZero(row.quantity)),
    cfds: merged(before.cfds, news.cfds, (row) => row.cfdId, (row) => !row.closeTime),
  };
  return {
    shards: new Map(old.shards).set(number, shard),
    fills: [...[...(news.fills ?? [])].reverse(), ...old.fills].slice(0, FILLS_SHOWN),
  };
}

function merged<T extends object>(
  old: ReadonlyMap<string, T>,
  news: readonly T[] | undefined,
  key: (row: T) => string | undefined,
  live: (row: T) => boolean,
): ReadonlyMap<string, T> {
  if (!news?.length) return old;
  const rows = new Map(old);
  for (const row of news) {
    if (live(row)) rows.set(key(row) ?? "", row);
    else rows.delete(key(row) ?? "");
  }
  return rows;
}

/** The sum over the shards. */
export function summed({ shards, fills }: AccountState): Account {
  const balances: Record<string, BalanceJson> = {};
  for (const shard of shards.values()) {
    for (const [asset, { free = "0", held = "0" }] of shard.balances) {
      const old = balances[asset];
      balances[asset] = { asset, free: add(old?.free ?? "0", free), held: add(old?.held ?? "0", held) };
    }
  }
  const all = [...shards.values()];
  return {
    ready: shards.size > 0,
    balances,
    openOrders: all.flatMap((shard) => [...shard.orders.values()]).sort(byId((row) => row.orderId)),
    positions: all.flatMap((shard) => [...shard.positions.values()]),
    cfds: all.flatMap((shard) => [...shard.cfds.values()]).sort(byId((row) => row.cfdId)),
    fills,
    shards: new Map([...shards].map(([number, shard]) => [number, shard.balances])),
  };
}

function byId<T>(id: (row: T) => string | undefined): (a: T, b: T) => number {
  return (a, b) => (BigInt(id(a) ?? 0) < BigInt(id(b) ?? 0) ? 1 : -1);
}

const NOBODY = summed(NOTHING);

/** Says a sentence to whoever looks; one that `stays` does so until it is dismissed. */
export type Tell = (news: string, stays?: boolean) => void;

/**
 * Balances, orders, positions, CFDs and fills of the user; empty while nobody is signed in. `tell` gets a
 * sentence for each thing that happened by itself.
 */
export function useAccount(userId: string | undefined, tell: Tell): Account {
  const socket = useSocket();
  const queries = useQueryClient();
  const [account, setAccount] = useState<Account>(NOBODY);
  const state = useRef(NOTHING);
  useEffect(() => {
    state.current = NOTHING;
    setAccount(NOBODY);
    if (userId === undefined) return;
    // The connection was opened before the cookies said who it is.
    socket.restart();
    const subscription = { channel: "CHANNEL_ACCOUNT" } as const;
    let waiting = false;
    return socket.subscribe(subscription, (frame) => {
      if (SIGN_IN_AGAIN.has(frame.error?.reason ?? "")) {
        void refreshSession().then((renewed) =>
          renewed ? socket.restart() : queries.invalidateQueries({ queryKey: ["me"] }),
        );
        return;
      }
      if (!frame.account) return;
      const next = applyAccount(state.current, frame.account);
      if (next === null) {
        // One is asked for once; what was on its way before it is of no use.
        if (!waiting) socket.resubscribe(subscription);
        waiting = true;
        return;
      }
      waiting = false;
      const known = state.current.shards.get(frame.account.shard ?? 0)?.orders;
      for (const text of happened(known, frame.account)) tell(text);
      for (const text of liquidated(frame.account)) tell(text, true);
      state.current = next;
      setAccount(summed(next));
    });
  }, [socket, queries, userId, tell]);
  return account;
}
