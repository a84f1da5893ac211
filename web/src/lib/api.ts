/** HTTP calls to the gateway. The session lives in httpOnly cookies; the page never sees a token. */
import { explained } from "./reasons";

/** A refusal, in words for a person. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** Stable reason such as "INSUFFICIENT_BALANCE"; empty when there was no answer. */
    readonly reason: string,
    /** The field at fault; may be empty. */
    readonly field: string,
  ) {
    super(message);
  }

  /** The same refusal, of a field that the page has under another name. */
  about(field: string): ApiError {
    const text = this.message.startsWith(`${this.field}: `) ? this.message.slice(this.field.length + 2) : this.message;
    return new ApiError(text, this.status, this.reason, field);
  }
}

interface ErrorBody {
  message?: string;
  details?: { "@type"?: string; reason?: string; metadata?: Record<string, string> }[];
}

function csrfToken(): string {
  return /(?:^|; )(?:__Host-)?tidebook_csrf=([^;]*)/.exec(document.cookie)?.[1] ?? "";
}

/** There may be a session: its readable companion cookie is there. Without it, nobody need be asked. */
export function mayHaveSession(): boolean {
  return csrfToken() !== "";
}

async function send(method: string, path: string, body?: object): Promise<Response> {
  const headers: Record<string, string> = { "X-Tidebook-Session": "cookie" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const csrf = csrfToken();
  if (csrf) headers["X-CSRF-Token"] = csrf;
  return fetch(path, {
    method,
    headers,
    credentials: "same-origin",
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

// One refresh at a time: a refresh token is good for one use.
let refreshing: Promise<boolean> | null = null;

/** Spend the refresh token; false when the session is over. */
export function refreshSession(): Promise<boolean> {
  refreshing ??= oneTabAtATime(async () => (await send("POST", "/v1/auth/refresh", {})).ok).finally(() => {
    refreshing = null;
  });
  return refreshing;
}

// Tabs share the cookies, and a token that two of them spend ends the session for both.
function oneTabAtATime<T>(work: () => Promise<T>): Promise<T> {
  // Browsers have locks over https and on this machine; elsewhere tabs cannot know of one another.
  return "locks" in navigator ? navigator.locks.request("tidebook-refresh", work) : work();
}

async function call<T>(method: string, path: string, body?: object): Promise<T> {
  let response: Response;
  try {
    response = await send(method, path, body);
    const mayRefresh = mayHaveSession() && !path.startsWith("/v1/auth/sign");
    if (response.status === 401 && mayRefresh && (await refreshSession())) {
      response = await send(method, path, body);
    }
  } catch {
    throw new ApiError("The exchange cannot be reached.", 0, "", "");
  }
  const text = await response.text();
  if (response.ok) return (text ? JSON.parse(text) : {}) as T;
  throw toError(response.status, text);
}

function toError(status: number, text: string): ApiError {
  let body: ErrorBody = {};
  try {
    body = JSON.parse(text) as ErrorBody;
  } catch {
    // A proxy's own error page: the status says all there is.
  }
  const info = body.details?.find((detail) => detail["@type"]?.endsWith("google.rpc.ErrorInfo"));
  const { reason = "", metadata = {} } = info ?? {};
  const message = body.message ?? `The exchange answered ${status}.`;
  return new ApiError(explained(reason, message, metadata), status, reason, metadata.field ?? "");
}

export const get = <T>(path: string) => call<T>("GET", path);
export const post = <T>(path: string, body: object) => call<T>("POST", path, body);
export const patch = <T>(path: string, body: object) => call<T>("PATCH", path, body);
export const remove = <T>(path: string) => call<T>("DELETE", path);

/** A server stream of the gateway: one JSON object per line, all of them. */
export async function getStream<T>(path: string): Promise<T[]> {
  const ask = () => send("GET", path);
  let response = await ask();
  if (response.status === 401 && mayHaveSession() && (await refreshSession())) response = await ask();
  const text = await response.text();
  if (!response.ok) throw toError(response.status, text);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const { result, error } = JSON.parse(line) as { result?: T; error?: ErrorBody };
      if (result === undefined) throw new ApiError(error?.message ?? "The export broke off.", 500, "", "");
      return result;
    });
}
