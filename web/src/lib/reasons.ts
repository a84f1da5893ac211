/** What a refusal means, and what one can do, where the exchange's own text is only the reason's name. */
import type { ReasonJson } from "../gen/tidebook/common/v1/reason_pb";
import { pretty } from "./decimal";
import { words } from "./names";

type Details = Readonly<Record<string, string>>;
type Sentence = string | ((details: Details) => string);

/** The words with the limit in them; nothing when the exchange does not say it. */
const limit = (before: string, value: string | undefined, after = ""): string =>
  value === undefined ? "" : `${before}${pretty(value)}${after}`;

const REFUSALS: Partial<Record<ReasonJson, Sentence>> = {
  REASON_OVERLOADED: "Too much is waiting already. Try again in a moment; cancelling still works.",
  REASON_DRAINING: "This part of the exchange is stopping. Try again in a moment.",
  REASON_DEADLINE_PASSED: "It had waited for too long, so it was not done. Try again.",
  REASON_LOG_UNAVAILABLE: "The exchange cannot write anything down right now, so nothing was done. Try again in a moment.",
  REASON_FENCED: "Another part of the exchange is just taking over, so nothing was done. Try again in a moment.",
  REASON_MARKET_HALTED: "The market is halted. Nothing happens in it until it goes on.",
  REASON_MARKET_CANCEL_ONLY: "The market takes nothing new now. What is open there can be cancelled or closed.",
  REASON_MARKET_POST_ONLY: "The market takes no orders now that could trade at once. A limit order with “Post only” can wait in it.",
  REASON_PRICE_OUT_OF_RANGE: ({ max_price }) => `No price that this market takes: above zero${limit(" and at most ", max_price)}.`,
  REASON_PRICE_OUTSIDE_BAND: ({ min_price, max_price }) =>
    `Too far from the price of now.${limit(" The market takes ", min_price)}${limit(" to ", max_price, ".")}`,
  REASON_PRICE_REQUIRED: "This kind of order needs a price.",
  REASON_PRICE_NOT_ALLOWED: "This kind of order has no price of its own.",
  REASON_QUANTITY_TOO_SMALL: ({ min_quantity }) => `Less than this market takes${limit(" (at least ", min_quantity, ")")}.`,
  REASON_QUANTITY_TOO_LARGE: ({ max_quantity }) => `More than this market takes at once${limit(" (at most ", max_quantity, ")")}.`,
  REASON_QUANTITY_REQUIRED: "A quantity is needed.",
  REASON_NOTIONAL_TOO_SMALL: ({ min_notional }) => `Worth less than this market takes${limit(" (at least ", min_notional, ")")}.`,
  REASON_NOTIONAL_TOO_LARGE: ({ max_notional }) => `Worth more than this market takes at once${limit(" (at most ", max_notional, ")")}.`,
  REASON_INSUFFICIENT_BALANCE: "More than you have available, fees included.",
  REASON_INSUFFICIENT_MARGIN: "What you have available does not carry the margin.",
  REASON_POST_ONLY_WOULD_TRADE: "It would trade at once, which “Post only” forbids. Choose a price further from the other side, or leave that off.",
  REASON_FOK_NOT_FILLABLE: "The book cannot fill all of it at this price, and “Fill or kill” takes no less.",
  REASON_NO_LIQUIDITY: "Nobody is on the other side of this market now, so there is nothing to trade with. A limit order can wait in the book.",
  REASON_SELF_TRADE_PREVENTED: "It would have traded with an order of your own.",
  REASON_REDUCE_ONLY_WOULD_INCREASE: "It would not make a position smaller, and “Reduce only” allows nothing else.",
  REASON_ORDER_NOT_FOUND: "There is no such order of yours.",
  REASON_ORDER_ALREADY_CLOSED: "The order has ended already.",
  REASON_TOO_MANY_OPEN_ORDERS: ({ max_open_orders }) =>
    `You have as many open in this market as it allows${limit(" (", max_open_orders, ")")}. Cancel or close some first.`,
  REASON_TIME_IN_FORCE_NOT_SUPPORTED: "This kind of order cannot have this time in force.",
  REASON_TRIGGER_PRICE_REQUIRED: "This kind of order needs a trigger price.",
  REASON_EXPIRED: "That time has passed already.",
  REASON_AMEND_CHANGES_NOTHING: "That is what the order says already.",
  REASON_AMEND_BELOW_FILLED: "More than that has been filled already.",
  REASON_SLIPPAGE_LIMIT_REACHED: "What the book offers is beyond the largest slippage.",
  REASON_BALANCE_OVERFLOW: "More than an account can hold.",
  REASON_PRICE_STALE: "This market has no fresh price now. Try again when prices move.",
  REASON_LEVERAGE_OUT_OF_RANGE: ({ max_leverage }) =>
    `Too much leverage for this size.${limit(" The market gives at most ", max_leverage, "x, and less for large positions.")}`,
  REASON_LEVERAGE_LOCKED: "It cannot change while you have orders open in this market. Cancel them first.",
  REASON_POSITION_NOT_FOUND: "You have no position in this market.",
  REASON_CFD_NOT_FOUND: "The CFD has ended already.",
  REASON_WOULD_BE_LIQUIDATED: "It would be liquidated at once, at the price of now. Take less leverage or a smaller size.",
  REASON_EXPOSURE_LIMIT_REACHED: "The house carries as much of this market as it takes. A smaller amount, or the other side, may do.",
  REASON_TRIGGER_ON_WRONG_SIDE: "The price is there already, so it would fire at once. Choose one on the other side of it.",
};

/** Why an order ended, to follow a colon. */
const ENDINGS: Partial<Record<ReasonJson, string>> = {
  REASON_UNSPECIFIED: "",
  REASON_CANCELLED_BY_USER: "by you",
  REASON_CANCELLED_ON_DISCONNECT: "its connection ended",
  REASON_OCO_CANCELLED: "the other of its pair came first",
  REASON_EXPIRED: "its time was over",
  REASON_DEADLINE_PASSED: "it had waited for too long",
  REASON_IOC_REMAINDER: "the rest could not be filled at once",
  REASON_NO_LIQUIDITY: "nobody was on the other side",
  REASON_SLIPPAGE_LIMIT_REACHED: "the rest was beyond the largest slippage",
  REASON_SELF_TRADE_PREVENTED: "it met an order of your own",
  REASON_INSUFFICIENT_BALANCE: "there was not enough available",
  REASON_INSUFFICIENT_MARGIN: "what was available did not carry the margin",
  REASON_REDUCE_ONLY_WOULD_INCREASE: "there was nothing left to reduce",
  REASON_POST_ONLY_WOULD_TRADE: "it would have traded at once",
  REASON_FOK_NOT_FILLABLE: "not all of it could be filled",
  REASON_PRICE_OUTSIDE_BAND: "its price was too far from the market's",
  REASON_WOULD_BE_LIQUIDATED: "its position would have been liquidated at once",
  REASON_LIQUIDATION: "your position was liquidated",
};

/** The words for a person: the exchange's own, unless they are only the reason's name and the limits. */
export function explained(reason: string, message: string, details: Details = {}): string {
  const name = reason.startsWith("REASON_") ? reason : `REASON_${reason}`;
  const bare = words(name, "REASON_").toLowerCase();
  const sentence = REFUSALS[name as ReasonJson];
  if (sentence === undefined || (message !== bare && !message.startsWith(`${bare}: `))) return message;
  return typeof sentence === "string" ? sentence : sentence(details);
}

/** Why an order ended; "" when there is nothing to say. */
export const ending = (reason: string | undefined): string =>
  ENDINGS[reason as ReasonJson] ?? words(reason, "REASON_");
