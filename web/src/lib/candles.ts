/** A market's candles: the past by HTTP, then what is being made by the WebSocket. */
import { useQuery } from "@tanstack/react-query";
import { useEffect } from "react";
import type {
  CandleIntervalJson,
  CandleJson,
  CandleSourceJson,
  ListCandlesResponseJson,
} from "../gen/tidebook/marketdata/v1/marketdata_pb";
import { get } from "./api";
import { useConnection, useSocket } from "./hooks";

export const INTERVALS = [
  ["CANDLE_INTERVAL_1S", "1s"],
  ["CANDLE_INTERVAL_1M", "1m"],
  ["CANDLE_INTERVAL_3M", "3m"],
  ["CANDLE_INTERVAL_5M", "5m"],
  ["CANDLE_INTERVAL_15M", "15m"],
  ["CANDLE_INTERVAL_30M", "30m"],
  ["CANDLE_INTERVAL_1H", "1h"],
  ["CANDLE_INTERVAL_2H", "2h"],
  ["CANDLE_INTERVAL_4H", "4h"],
  ["CANDLE_INTERVAL_6H", "6h"],
  ["CANDLE_INTERVAL_8H", "8h"],
  ["CANDLE_INTERVAL_12H", "12h"],
  ["CANDLE_INTERVAL_1D", "1d"],
  ["CANDLE_INTERVAL_3D", "3d"],
  ["CANDLE_INTERVAL_1W", "1w"],
  ["CANDLE_INTERVAL_1MO", "1M"],
] as const satisfies readonly (readonly [CandleIntervalJson, string])[];

export interface CandlesWanted {
  market: string;
  interval: CandleIntervalJson;
  source: CandleSourceJson;
}

/** The past, newest first, fetched again whenever the connection is back; `onLive` gets each change. */
export function useCandles({ market, interval, source }: CandlesWanted, onLive: (candle: CandleJson) => void) {
  const socket = useSocket();
  const connected = useConnection() === "open";
  useEffect(
    () =>
      socket.subscribe({ channel: "CHANNEL_CANDLES", markets: [market], interval, source }, (frame) => {
        for (const candle of frame.candles?.candles ?? []) {
          if (candle.market === market && candle.interval === interval && candle.source === source) onLive(candle);
        }
      }),
    [socket, market, interval, source, onLive],
  );
  return useQuery({
    queryKey: ["candles", market, interval, source, connected],
    queryFn: async () => {
      const path = `/v1/marketdata/${market}/candles`;
      const page = await get<ListCandlesResponseJson>(
        `${path}?interval=${interval}&source=${source}&pageSize=1000`,
      );
      return page.candles ?? [];
    },
    staleTime: 0,
    gcTime: 0,
  });
}
