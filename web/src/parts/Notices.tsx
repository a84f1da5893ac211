import { createContext, type ReactNode, useCallback, useContext, useEffect, useRef, useState } from "react";
import type { Tell } from "../lib/account";
import { useConnection } from "../lib/hooks";
import { useSettled } from "../lib/page";

const SHOWN_MS = 10_000;
const MOST = 4;

interface Notice {
  readonly id: number;
  readonly text: string;
  readonly stays: boolean;
}

const TellContext = createContext<Tell>(() => undefined);

/** How a part of the page tells of something that happened. */
export const useTell = () => useContext(TellContext);

/** What happened by itself, in a corner for a while, and read out by screen readers. */
export function Notices({ children }: { children: ReactNode }) {
  const [notices, setNotices] = useState<readonly Notice[]>([]);
  const drop = useCallback((id: number) => setNotices((old) => old.filter((notice) => notice.id !== id)), []);
  const lastId = useRef(0);
  const tell = useCallback<Tell>((text, stays = false) => {
    const id = ++lastId.current;
    setNotices((old) => [...old, { id, text, stays }].slice(-MOST));
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

function Entry({ notice: { id, text, stays }, onDrop }: { notice: Notice; onDrop: (id: number) => void }) {
  useEffect(() => {
    if (stays) return;
    const timer = setTimeout(() => onDrop(id), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [id, stays, onDrop]);
  return (
    <p className={stays ? "stays" : ""}>
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
