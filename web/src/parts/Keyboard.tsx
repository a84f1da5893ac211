import { type ReactNode, useCallback, useState } from "react";
import { useKey } from "../lib/page";
import { Dialog } from "./Basics";

const KEYS: readonly (readonly [ReactNode, string])[] = [
  [<kbd key="/">/</kbd>, "search the markets; Enter takes the first"],
  [
    <span key="bs">
      <kbd>b</kbd> <kbd>s</kbd>
    </span>,
    "buy or sell in the order form",
  ],
  [
    <span key="lm">
      <kbd>l</kbd> <kbd>m</kbd>
    </span>,
    "a limit order, a market order",
  ],
  [<kbd key="q">q</kbd>, "to the quantity; Enter sends the order"],
  [
    <span key="tab">
      <kbd>Tab</kbd> <kbd>Enter</kbd>
    </span>,
    "everything else; prices of the book are buttons too",
  ],
  [<kbd key="esc">Esc</kbd>, "close a dialog"],
  [<kbd key="?">?</kbd>, "this list"],
];

/** The list of keys, and the key and the button that open it. */
export function Keyboard() {
  const [open, setOpen] = useState(false);
  useKey(
    "?",
    useCallback(() => setOpen(true), []),
  );
  return (
    <>
      <button type="button" className="quiet" aria-label="Keyboard" title="Keyboard (?)" onClick={() => setOpen(true)}>
        ?
      </button>
      {open && (
        <Dialog title="Keyboard" onClose={() => setOpen(false)}>
          <dl className="facts">
            {KEYS.map(([keys, text]) => (
              <div key={text} className="fact">
                <dt>{keys}</dt>
                <dd>{text}</dd>
              </div>
            ))}
          </dl>
        </Dialog>
      )}
    </>
  );
}
