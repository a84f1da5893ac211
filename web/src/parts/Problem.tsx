import type { ReactNode } from "react";
import type { ErrorJson } from "../gen/tidebook/common/v1/error_pb";
import { ApiError } from "../lib/api";
import { explained } from "../lib/reasons";

interface Props {
  error: Error | null;
  /** Fields that show a refusal about them themselves. */
  elsewhere?: readonly string[];
}

/** What went wrong, with the reason that documentation explains. */
export function Problem({ error, elsewhere = [] }: Props) {
  if (error === null || elsewhere.includes(fieldOf(error))) return null;
  return (
    <p className="problem" role="alert">
      <Words error={error} />
    </p>
  );
}

/** A refusal that is about `field`, for the place next to it; null when there is none. */
export function refusalOf(error: Error | null, field: string): ReactNode {
  return error !== null && fieldOf(error) === field ? <Words error={error} /> : null;
}

/** In a preview: why it would not be done, as things are now. */
export function WouldBeRefused({ error: { reason, message = "", details } }: { error: ErrorJson }) {
  return <dd className="hint wide">Would be refused: {explained(reason ?? "", message, details)}</dd>;
}

/** A refusal is about what was sent; once that is changed it says nothing any more. */
export function corrected(sent: { isError: boolean; reset: () => void }, change: (text: string) => void) {
  return (text: string) => {
    if (sent.isError) sent.reset();
    change(text);
  };
}

function Words({ error }: { error: Error }) {
  const reason = error instanceof ApiError && error.reason;
  return (
    <>
      {sentence(error)} {reason && <small>{reason}</small>}
    </>
  );
}

/** The contract's field without the message it is in; a pair's stop limit price is a field of its own. */
function fieldOf(error: Error): string {
  const path = error instanceof ApiError ? error.field : "";
  return path === "second.price" ? "stop_price" : (path.split(".").at(-1) ?? "");
}

/** "price: must be above zero" -> "Must be above zero": next to the field its name says nothing new. */
function sentence(error: Error): string {
  const field = error instanceof ApiError ? error.field : "";
  const text = field && error.message.startsWith(`${field}: `) ? error.message.slice(field.length + 2) : error.message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}
