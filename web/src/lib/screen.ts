/**
 * The one place where exactness is given up: pixels. What comes from here is drawn and never shown as
 * a number, sent or calculated with. The linter refuses Number and parseFloat everywhere else.
 */
import { parse } from "./decimal";

/** Where a decimal is drawn; null for what is no decimal. */
export function screenNumber(text: string | undefined): number | null {
  return text && parse(text) ? Number(text) : null;
}

/** `part / whole` in percent, for the width of a bar. */
export function percent(part: string, whole: string): number {
  const size = screenNumber(whole);
  return size ? Math.floor((1000 * (screenNumber(part) ?? 0)) / size) / 10 : 0;
}

/** A count of nanoseconds as a drawn width. */
export const screenCount = (value: bigint): number => Number(value);

/** A leverage or a count from an input of whole numbers. */
export const wholeNumber = (text: string): number => Number.parseInt(text, 10) || 0;
