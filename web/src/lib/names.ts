/** Words for people in place of the contract's enum names. */
import type { MarketJson } from "../gen/tidebook/engine/v1/market_pb";
import type { OrderTypeJson, SideJson } from "../gen/tidebook/engine/v1/types_pb";

export const ORDER_TYPES: Record<string, string> = {
  ORDER_TYPE_LIMIT: "Limit",
  ORDER_TYPE_MARKET: "Market",
  ORDER_TYPE_STOP_MARKET: "Stop market",
  ORDER_TYPE_STOP_LIMIT: "Stop limit",
  ORDER_TYPE_TAKE_PROFIT_MARKET: "Take profit market",
  ORDER_TYPE_TAKE_PROFIT_LIMIT: "Take profit limit",
  ORDER_TYPE_TRAILING_STOP: "Trailing stop",
} satisfies Partial<Record<OrderTypeJson, string>>;

const LETTERS = /\b(?:api|cfd|fok|ioc|ip|oco)\b/g;

/** The last words of an enum name in small letters: ORDER_STATUS_PARTIALLY_FILLED -> "partially filled". */
export function words(name: string | undefined, prefix: string): string {
  const small = (name ?? "").replace(prefix, "").replaceAll("_", " ").toLowerCase();
  return small.replace(LETTERS, (letters) => letters.toUpperCase());
}

export const isBuy = (side: SideJson | undefined): boolean => side === "SIDE_BUY";
export const opposite = (side: SideJson): SideJson => (isBuy(side) ? "SIDE_SELL" : "SIDE_BUY");

export type Kind = "spot" | "margin" | "cfd";

export function kindOf(market: MarketJson | undefined): Kind {
  if (market?.kind === "MARKET_KIND_MARGIN") return "margin";
  return market?.kind === "MARKET_KIND_CFD" ? "cfd" : "spot";
}

export const KINDS: Record<Kind, string> = { spot: "Spot", margin: "Margin", cfd: "CFD" };

/** "BTC_USDC_MARGIN" -> "BTC/USDC Margin". */
export function marketTitle(name: string | undefined): string {
  const [base = "", quote = "", kind = ""] = (name ?? "").split("_");
  const suffix = kind === "CFD" ? " CFD" : kind ? ` ${kind[0]}${kind.slice(1).toLowerCase()}` : "";
  return `${base}/${quote}${suffix}`;
}

export function dateTime(time: string | undefined): string {
  return time ? new Date(time).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium", hourCycle: "h23" }) : "–";
}

export function clock(time: string | undefined): string {
  return time ? new Date(time).toLocaleTimeString(undefined, { hourCycle: "h23" }) : "–";
}

/** The colour of a change: none for nothing. */
export const toneOf = (change: number): string => (change < 0 ? "down" : change > 0 ? "up" : "");

const BROWSERS = [
  [/Edg\//, "Edge"],
  [/OPR\//, "Opera"],
  [/Firefox\//, "Firefox"],
  [/(?:Headless)?Chrome\//, "Chrome"],
  [/Safari\//, "Safari"],
] as const;
const SYSTEMS = [
  [/iPhone|iPad/, "iOS"],
  [/Android/, "Android"],
  [/Windows/, "Windows"],
  [/Mac OS X/, "macOS"],
  [/Linux/, "Linux"],
] as const;

/** "Mozilla/5.0 (X11; Linux x86_64) ... Chrome/1.0" -> "Chrome on Linux"; what it does not know stays as it is. */
export function browserName(userAgent = ""): string {
  const first = (names: readonly (readonly [RegExp, string])[]) => names.find(([pattern]) => pattern.test(userAgent))?.[1];
  const [browser, system] = [first(BROWSERS), first(SYSTEMS)];
  return browser && system ? `${browser} on ${system}` : userAgent || "unknown";
}
