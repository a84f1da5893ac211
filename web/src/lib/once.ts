/** Calls that must not be done twice, however often they are sent. */
import { useCallback, useRef } from "react";
import { ApiError } from "./api";

/** 32 hexadecimal digits. Not `crypto.randomUUID`, which is only there over HTTPS and on this machine. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The exchange has said yes or no: sent again it would be a new request. */
const isKnown = (error: unknown): boolean => error instanceof ApiError && error.status >= 400 && error.status < 500;

interface Pending {
  readonly content: string;
  readonly id: string;
}

/**
 * An id for each request. Sent again while nobody knows what became of it, because the connection broke, the
 * same content goes under the same id, and the exchange does it once.
 */
export class Once {
  private pending: Pending | null = null;

  async call<T>(content: object, send: (id: string) => Promise<T>): Promise<T> {
    const text = JSON.stringify(content);
    const pending = this.pending?.content === text ? this.pending : { content: text, id: newId() };
    this.pending = pending;
    try {
      const answer = await send(pending.id);
      this.pending = null;
      return answer;
    } catch (error) {
      if (isKnown(error)) this.pending = null;
      throw error;
    }
  }
}

export function useOnce() {
  const once = useRef<Once>(null);
  return useCallback(<T>(content: object, send: (id: string) => Promise<T>): Promise<T> => {
    once.current ??= new Once();
    return once.current.call(content, send);
  }, []);
}
