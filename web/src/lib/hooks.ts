import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useCallback, useContext, useEffect, useRef, useState } from "react";
import type { GetMeResponseJson, UserJson } from "../gen/tidebook/auth/v1/auth_pb";
import type { ListMarketsResponseJson } from "../gen/tidebook/engine/v1/market_pb";
import type {
  FeedStatusJson,
  ListPricesResponseJson,
  ListTradesResponseJson,
  PriceJson,
  TickerJson,
  TradeJson,
} from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { ApiError, get, mayHaveSession, post } from "./api";
import { applyUpdate, type Book, GapError } from "./book";
import { paced, PRICES_EVERY_MS } from "./paced";
import type { Connection, Socket } from "./socket";

const TRADES_SHOWN = 40;

export const SocketContext = createContext<Socket | null>(null);

export function useSocket(): Socket {
  const socket = useContext(SocketContext);
  if (socket === null) throw new Error("no socket above this component");
  return socket;
}

export function useConnection(): Connection {
  const socket = useSocket();
  const [state, setState] = useState<Connection>("connecting");
  useEffect(() => socket.watch(setState), [socket]);
  return state;
}

/** The signed-in user; null when nobody is, undefined while it is not known. */
export function useUser(): UserJson | null | undefined {
  const { data } = useQuery({
    queryKey: ["me"],
    queryFn: async () => {
      if (!mayHaveSession()) return null;
      try {
        return (await get<GetMeResponseJson>("/v1/auth/me")).user ?? null;
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) return null;
        throw error;
      }
    },
    staleTime: Infinity,
  });
  return data;
}

/** End this session, or all of the user's. */
export function useSignOut(allSessions: boolean) {
  const queries = useQueryClient();
  const socket = useSocket();
  return useMutation({
    mutationFn: () => post("/v1/auth/signout", { allSessions }),
    onSettled: async () => {
      // What was cached belongs to the one who leaves.
      queries.removeQueries({ predicate: ({ queryKey }) => queryKey[0] === "mine" });
      await queries.invalidateQueries({ queryKey: ["me"] });
      socket.restart();
    },
  });
}

/** The markets and assets of the exchange; asked for until there is an answer. */
export function useExchange(): ListMarketsResponseJson & { error: Error | null } {
  const { data, failureReason } = useQuery({
    queryKey: ["markets"],
    queryFn: () => get<ListMarketsResponseJson>("/v1/markets"),
    staleTime: 60_000,
    refetchInterval: 60_000,
    retry: true,
  });
  return { ...data, error: data ? null : failureReason };
}

/** How the external feed is; asked for anew now and then. */
export function useFeed(): FeedStatusJson | undefined {
  const { data } = useQuery({
    queryKey: ["feed"],
    queryFn: () => get<ListPricesResponseJson>("/v1/prices"),
    refetchInterval: 10_000,
  });
  return data?.feed;
}

export type ByMarket<T> = Readonly<Record<string, T>>;

export function usePrices(): ByMarket<PriceJson> {
  const socket = useSocket();
  const [prices, take] = useLatest<PriceJson>();
  useEffect(
    () => socket.subscribe({ channel: "CHANNEL_PRICES" }, (frame) => take(frame.prices?.prices)),
    [socket, take],
  );
  return prices;
}

export function useTickers(): ByMarket<TickerJson> {
  const socket = useSocket();
  const [tickers, take] = useLatest<TickerJson>();
  useEffect(
    () => socket.subscribe({ channel: "CHANNEL_TICKER" }, (frame) => take(frame.ticker?.tickers)),
    [socket, take],
  );
  return tickers;
}

/** The newest of each market, and how to tell it of more. */
function useLatest<T extends { market?: string }>(): [ByMarket<T>, (news: readonly T[] | undefined) => void] {
  const [shown, setShown] = useState<ByMarket<T>>({});
  const newest = useRef<ByMarket<T>>({});
  const [changed] = useState(() => paced(() => setShown(newest.current), PRICES_EVERY_MS));
  const take = useCallback(
    (news: readonly T[] | undefined) => {
      if (!news?.length) return;
      newest.current = { ...newest.current, ...Object.fromEntries(news.map((row) => [row.market ?? "", row])) };
      changed();
    },
    [changed],
  );
  return [shown, take];
}

/** The market's book, kept by sequence; null until the first snapshot. */
export function useBook(market: string): Book | null {
  const socket = useSocket();
  const [book, setBook] = useState<Book | null>(null);
  useEffect(() => {
    let current: Book | null = null;
    const subscription = { channel: "CHANNEL_BOOK", markets: [market], depth: 200 } as const;
    const wanted = { ...subscription, markets: [...subscription.markets] };
    setBook(null);
    const changed = paced(() => setBook(current));
    const stop = socket.subscribe(wanted, (frame) => {
      for (const update of frame.book?.books ?? []) {
        if (update.market !== market) continue;
        try {
          current = applyUpdate(current, update);
        } catch (error) {
          if (!(error instanceof GapError)) throw error;
          // Deltas that were on their way before the new snapshot are of no use.
          if (current !== null) socket.resubscribe(wanted);
          current = null;
        }
        changed();
      }
    });
    return () => {
      stop();
      changed.stop();
    };
  }, [socket, market]);
  return book;
}

/** The market's latest trades, newest first; null until they are known. */
export function useTrades(market: string): readonly TradeJson[] | null {
  const socket = useSocket();
  const connected = useConnection() === "open";
  const [trades, setTrades] = useState<readonly TradeJson[] | null>(null);
  useEffect(() => {
    let current: readonly TradeJson[] = [];
    const changed = paced(() => setTrades(current));
    const take = (news: readonly TradeJson[]) => {
      const known = new Map([...current, ...news].map((trade) => [trade.tradeId, trade]));
      current = [...known.values()].sort(newestFirst).slice(0, TRADES_SHOWN);
      changed();
    };
    setTrades((old) => (old?.[0]?.market === market ? old : null));
    const stop = socket.subscribe({ channel: "CHANNEL_TRADES", markets: [market] }, (frame) => {
      const news = frame.trades?.trades?.filter((trade) => trade.market === market);
      if (news?.length) take(news);
    });
    let stopped = false;
    get<ListTradesResponseJson>(`/v1/marketdata/${market}/trades?pageSize=${TRADES_SHOWN}`).then(
      (page) => !stopped && take(page.trades ?? []),
      // Without the past the live trades still come. What is known stays while nothing can be asked.
      () => !stopped && connected && changed(),
    );
    return () => {
      stopped = true;
      stop();
      changed.stop();
    };
    // What was traded while the connection was lost is fetched when it is back.
  }, [socket, market, connected]);
  return trades;
}

function newestFirst(a: { tradeId?: string }, b: { tradeId?: string }): number {
  return BigInt(a.tradeId ?? 0) < BigInt(b.tradeId ?? 0) ? 1 : -1;
}
