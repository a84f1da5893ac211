/**
 * Exact decimals for the page: strings from the wire, BigInt inside. Number is never used for a price,
 * quantity or amount; the one exception is the width of a bar on the screen.
 */

/** A decimal as `units * 10 ** -scale`. */
export interface Decimal {
  readonly units: bigint;
  readonly scale: number;
}

const PATTERN = /^-?\d{1,20}(\.\d{1,18})?$/;

/** `"1.50"` -> 150 at scale 2; null for anything that is not a plain decimal. */
export function parse(text: string): Decimal | null {
  if (!PATTERN.test(text)) return null;
  const [whole = "0", fraction = ""] = text.split(".");
  return { units: BigInt(whole + fraction), scale: fraction.length };
}

function parsed(text: string): Decimal {
  const value = parse(text || "0");
  if (value === null) throw new Error(`not a decimal: ${text}`);
  return value;
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

/** Text for people: thousands separated, padded to the decimals of `step` (`"0.01"` -> 2). */
export function pretty(text: string | undefined, step = "1"): string {
  if (!text) return "–";
  const decimals = parsed(step).scale;
  const [whole = "0", fraction = ""] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  const shown = fraction.padEnd(decimals, "0");
  return shown ? `${grouped}.${shown}` : grouped;
}

/** `part / whole` in percent, for the width of a bar: the only place where exactness is given up. */
export function percent(part: string, whole: string): number {
  const [x, y] = align(parsed(part), parsed(whole));
  return y === 0n ? 0 : Number((x * 1000n) / y) / 10;
}
