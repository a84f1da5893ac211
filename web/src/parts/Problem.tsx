import { ApiError } from "../lib/api";

/** What went wrong, in the exchange's own words, with the reason that documentation explains. */
export function Problem({ error }: { error: Error | null }) {
  if (error === null) return null;
  const reason = error instanceof ApiError && error.reason;
  return (
    <p className="problem" role="alert">
      {error.message} {reason && <small>{reason}</small>}
    </p>
  );
}
