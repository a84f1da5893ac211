import { createContext, type ReactNode, useCallback, useContext, useEffect, useState } from "react";
import { useConnection } from "../lib/hooks";
import { useSettled } from "../lib/page";

const SHOWN_MS = 10_000;
const MOST = 4;

interface Notice {
  readonly id: number;
  readonly text: string;
}

const TellContext = createContext<(text: string) => void>(() => undefined);

/** How a part of the page tells of something that happened. */
export const useTell = () => useContext(TellContext);

/** What happened by itself, in a corner for a while, and read out by screen readers. */
export function Notices({ children }: { children: ReactNode }) {
  const [notices, setNotices] = useState<readonly Notice[]>([]);
  const drop = useCallback((id: number) => setNotices((old) => old.filter((notice) => notice.id !== id)), []);
  const tell = useCallback((text: string) => {
    setNotices((old) => [...old, { id: (old.at(-1)?.id ?? 0) + 1, text }].slice(-MOST));
  }, []);
  return (
    <TellContext value={tell}>
      {children}
      <div className="notices" role="log" aria-label="What happened">
        {notices.map((notice) => (
          <Entry key={notice.id} notice={notice} onDrop={drop} />
        ))}
      </div>
    </TellContext>
  );
}

function Entry({ notice: { id, text }, onDrop }: { notice: Notice; onDrop: (id: number) => void }) {
  useEffect(() => {
    const timer = setTimeout(() => onDrop(id), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [id, onDrop]);
  return (
    <p>
      {text}
      <button type="button" className="quiet" aria-label="Dismiss" onClick={() => onDrop(id)}>
        ✕
      </button>
    </p>
  );
}

/** Plain words while the exchange cannot be reached; a moment without it is not worth a word. */
export function LostConnection() {
  const connection = useConnection();
  const lost = useSettled(connection !== "open", 1_500) && connection !== "open";
  if (!lost) return null;
  return (
    <p className="lost" role="alert">
      The exchange cannot be reached. Prices, books and balances here may be old; the page tries again by itself.
    </p>
  );
}
