/**
 * Exact decimals for the page: strings from the wire, BigInt inside. A float never holds a price,
 * quantity or amount; what only a drawing needs is made in screen.ts.
 */

/** A decimal as `units * 10 ** -scale`. */
export interface Decimal {
  readonly units: bigint;
  readonly scale: number;
}

const PATTERN = /^-?\d{1,20}(\.\d{1,18})?$/;
// Products in between may be longer than what the exchange takes.
const EXACT = /^-?\d+(\.\d+)?$/;

/** `"1.50"` -> 150 at scale 2; null for anything that is not a plain decimal. */
export function parse(text: string): Decimal | null {
  return PATTERN.test(text) ? split(text) : null;
}

function split(text: string): Decimal {
  const [whole = "0", fraction = ""] = text.split(".");
  return { units: BigInt(whole + fraction), scale: fraction.length };
}

function parsed(text: string): Decimal {
  if (text !== "" && !EXACT.test(text)) throw new Error(`not a decimal: ${text}`);
  return split(text || "0");
}

function align(a: Decimal, b: Decimal): [bigint, bigint, number] {
  const scale = Math.max(a.scale, b.scale);
  const lift = (d: Decimal) => d.units * 10n ** BigInt(scale - d.scale);
  return [lift(a), lift(b), scale];
}

/** -1, 0 or 1 as `a` is below, equal to or above `b`. */
export function compare(a: string, b: string): number {
  const [x, y] = align(parsed(a), parsed(b));
  return x < y ? -1 : x > y ? 1 : 0;
}

export function add(a: string, b: string): string {
  const [x, y, scale] = align(parsed(a), parsed(b));
  return format({ units: x + y, scale });
}

export function subtract(a: string, b: string): string {
  const [x, y, scale] = align(parsed(a), parsed(b));
  return format({ units: x - y, scale });
}

export function multiply(a: string, b: string): string {
  const x = parsed(a);
  const y = parsed(b);
  return format({ units: x.units * y.units, scale: x.scale + y.scale });
}

/** `a / b` with `decimals` places, rounded towards zero; `b` must not be zero. */
export function divide(a: string, b: string, decimals: number): string {
  const [x, y] = align(parsed(a), parsed(b));
  return format({ units: (x * 10n ** BigInt(decimals)) / y, scale: decimals });
}

export function negate(a: string): string {
  const { units, scale } = parsed(a);
  return format({ units: -units, scale });
}

export const isNegative = (a: string | undefined): boolean => (a ?? "").startsWith("-");
export const isZero = (a: string | undefined): boolean => parsed(a ?? "0").units === 0n;
export const absolute = (a: string): string => (isNegative(a) ? negate(a) : a);

/** `value` cut to `decimals` places, for values that are computed and not rounded by the exchange. */
export function cut(value: string, decimals: number): string {
  return divide(value, "1", decimals);
}

/** How many decimals a step such as "0.01" has. */
export const decimalsOf = (step: string | undefined): number => parsed(step ?? "1").scale;

/** The largest multiple of `step` that is not above `value` (for values of either sign). */
export function floorTo(value: string, step: string): string {
  const [x, y, scale] = align(parsed(value), parsed(step));
  return format({ units: x - (((x % y) + y) % y), scale });
}

/** The smallest multiple of `step` that is not below `value`. */
export function ceilTo(value: string, step: string): string {
  return negate(floorTo(negate(value), step));
}

/** `value` is a whole multiple of `step`. */
export function isMultiple(value: string, step: string): boolean {
  const [x, y] = align(parsed(value), parsed(step));
  return y !== 0n && x % y === 0n;
}

/** Canonical text: no trailing zeros. */
export function format({ units, scale }: Decimal): string {
  const sign = units < 0n ? "-" : "";
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, "0");
  const whole = digits.slice(0, digits.length - scale);
  const fraction = scale ? digits.slice(-scale).replace(/0+$/, "") : "";
  return sign + whole + (fraction ? `.${fraction}` : "");
}

/**
 * What a person typed or pasted in place of `old`, with a point before the decimals: a comma that is typed is
 * one, the commas of "64,123.45" are not. "64,123" that was pasted can mean both, so it stays as it is and is no
 * decimal.
 */
export function typed(old: string, text: string): string {
  const plain = text.replace(/[\s\u00a0_']/g, "");
  if (/^-?\d{1,3}(,\d{3})+\.\d*$/.test(plain) || /^-?\d{1,3}(,\d{3}){2,}$/.test(plain)) return plain.replaceAll(",", "");
  if (/^[1-9]\d{0,2},\d{3}$/.test(plain) && plain.length > old.length + 1) return plain;
  return /^[^.,]*,[^.,]*$/.test(plain) ? plain.replace(",", ".") : plain;
}

/** Text for people: thousands separated, padded to the decimals of `step` (`"0.01"` -> 2). */
export function pretty(text: string | undefined, step = "1"): string {
  if (!text) return "–";
  const decimals = parsed(step).scale;
  const [whole = "0", fraction = ""] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  const shown = fraction.padEnd(decimals, "0");
  return shown ? `${grouped}.${shown}` : grouped;
}

/** Basis points as a percentage: -125 -> "-1.25%". */
export function percentOfBps(bps: number | bigint, sign = true): string {
  const size = (bps < 0 ? -bps : bps).toString().padStart(3, "0");
  const shown = `${size.slice(0, -2)}.${size.slice(-2)}%`;
  return `${bps < 0 ? "-" : sign && bps > 0 ? "+" : ""}${shown}`;
}

/** `part` of `whole` in whole basis points, cut; 0 when there is no whole. */
export function basisPoints(part: string, whole: string): bigint {
  const [x, y] = align(parsed(part), parsed(whole));
  return y === 0n ? 0n : (x * 10_000n) / y;
}

/** A percentage typed by a person in basis points: "1.25" -> 125; null if it has more than two decimals. */
export function bpsOfPercent(text: string): bigint | null {
  const value = parse(text);
  return value === null || value.scale > 2 ? null : value.units * 10n ** BigInt(2 - value.scale);
}
