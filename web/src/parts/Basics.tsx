/** Small pieces that every part uses. */
import { type CSSProperties, type MouseEvent, type ReactNode, useCallback, useEffect, useId, useRef } from "react";
import { basisPoints, cut, isNegative, isZero, percentOfBps, pretty, typed } from "../lib/decimal";
import { isBuy } from "../lib/names";
import { useKey } from "../lib/page";
import type { SideJson } from "../gen/tidebook/engine/v1/types_pb";

interface ChoiceProps {
  name: ReactNode;
  on: boolean;
  choose: () => void;
  tone?: string;
}

/** One of several buttons of which one is on. */
export function Choice({ name, on, choose, tone = "" }: ChoiceProps) {
  return (
    <button type="button" className={tone} aria-pressed={on} onClick={choose}>
      {name}
    </button>
  );
}

interface TabsProps<T extends string> {
  label: string;
  tabs: readonly (readonly [T, ReactNode])[];
  chosen: T;
  onChoose: (tab: T) => void;
}

/** A row of choices that look like tabs. */
export function Tabs<T extends string>({ label, tabs, chosen, onChoose }: TabsProps<T>) {
  return (
    <div className="tabs" role="group" aria-label={label}>
      {tabs.map(([tab, name]) => (
        <Choice key={tab} name={name} on={tab === chosen} choose={() => onChoose(tab)} />
      ))}
    </div>
  );
}

interface FieldProps {
  label: ReactNode;
  value: string;
  onChange: (text: string) => void;
  required?: boolean;
  placeholder?: string;
  hint?: ReactNode;
  suffix?: string;
  /** What is wrong with it, shown under it; "" or null when nothing is. */
  problem?: ReactNode;
  /** A key that takes a person here. */
  shortcut?: string;
}

/** A decimal that a person types; spaces around it are not meant. */
export function DecimalField({
  label,
  value,
  onChange,
  required,
  placeholder,
  hint,
  suffix,
  problem,
  shortcut,
}: FieldProps) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  useKey(
    shortcut ?? "",
    useCallback(() => input.current?.focus(), []),
  );
  return (
    <div className="field">
      <label htmlFor={id}>
        {label} {hint && <small>{hint}</small>}
      </label>
      <span className="box">
        <input
          id={id}
          ref={input}
          aria-invalid={problem ? true : undefined}
          aria-describedby={problem ? `${id}-problem` : undefined}
          aria-keyshortcuts={shortcut}
          inputMode="decimal"
          autoComplete="off"
          required={required}
          placeholder={placeholder}
          value={value}
          onChange={(event) => onChange(typed(value, event.target.value))}
        />
        {suffix && <span className="suffix">{suffix}</span>}
      </span>
      {problem && (
        <span id={`${id}-problem`} className="problem" role="alert">
          {problem}
        </span>
      )}
    </div>
  );
}

export function SideName({ side, long = false }: { side: SideJson | undefined; long?: boolean }) {
  const [buy, sell] = long ? ["Long", "Short"] : ["Buy", "Sell"];
  return <span className={isBuy(side) ? "up" : "down"}>{isBuy(side) ? buy : sell}</span>;
}

/** An amount with its sign and the colour that goes with it. */
export function Profit({ amount, step, unit = "" }: { amount: string | undefined; step?: string; unit?: string }) {
  if (!amount) return <span>–</span>;
  const tone = isZero(amount) ? "" : isNegative(amount) ? "down" : "up";
  return (
    <span className={tone}>
      {tone === "up" && "+"}
      {pretty(amount, step)} {unit}
    </span>
  );
}

/** A profit, and below it how much that is of the margin. */
export function Return({ profit, margin, unit }: { profit: string; margin: string; unit: string | undefined }) {
  return (
    <>
      <Profit amount={cut(profit, 2)} step="0.01" unit={unit} />
      <div>
        <small>{percentOfBps(basisPoints(profit, margin))}</small>
      </div>
    </>
  );
}

/** An amount in full, with what is beyond cents set smaller, so that the money is read first. */
export function Amount({ amount = "0" }: { amount: string | undefined }) {
  const [whole = "0", fraction = ""] = pretty(amount || "0").split(".");
  if (fraction === "") return whole;
  const cents = whole === "0" ? fraction.length : 2;
  return (
    <>
      {whole}.{fraction.slice(0, cents)}
      {fraction.length > cents && <span className="fine">{fraction.slice(cents)}</span>}
    </>
  );
}

/** A cell of a table with an amount. */
export function AmountCell({ amount }: { amount: string | undefined }) {
  return (
    <td className="number">
      <Amount amount={amount} />
    </td>
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ReactNode;
  wide?: boolean;
}

/** A modal dialog: the browser keeps the focus inside, Escape closes it, and then the focus is where it was. */
export function Dialog({ title, onClose, children, wide = false }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const name = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    // What it was opened for, not the button that closes it.
    dialog.current?.querySelector<HTMLElement>("form input")?.focus();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const onBackdrop = (event: MouseEvent) => {
    if (event.target === dialog.current) onClose();
  };
  return (
    // A click beside it closes it for the mouse; the keyboard has Escape.
    <dialog
      ref={dialog}
      className={wide ? "wide" : ""}
      aria-labelledby={name}
      onClose={onClose}
      onClick={onBackdrop}
    >
      <div className="inside">
        <h2 id={name}>
          {title}
          <span className="spacer" />
          <button type="button" className="quiet" aria-label="Close" onClick={onClose}>
            ✕
          </button>
        </h2>
        {children}
      </div>
    </dialog>
  );
}

/** With fewer columns than this a table stays one on a phone. */
const CARDS_FROM = 5;

interface TableProps {
  label: string;
  head: readonly string[];
  children: ReactNode;
  cards?: boolean;
}

/**
 * A table; on a narrow screen one of many columns has a card for each row, whose cells name their columns, and
 * others scroll sideways. What scrolls takes the focus.
 */
export function Table({ label, head, children, cards = head.length >= CARDS_FROM }: TableProps) {
  const names = head.map((name, at) => [`--head-${at + 1}`, JSON.stringify(/^!/.test(name) ? "" : name.replace(">", ""))]);
  return (
    <div className="scroll" role="region" aria-label={label} tabIndex={0}>
      <table className={cards ? "cards" : ""} style={Object.fromEntries(names) as CSSProperties}>
        <thead>
          <tr>
            {head.map((name) => (
              <th key={name} scope="col" className={name.startsWith(">") ? "number" : ""}>
                {name.startsWith("!") ? <span className="hidden">{name.slice(1)}</span> : name.replace(">", "")}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** Loading, failed, empty: what a list shows in place of its rows. */
export function Placeholder({ loading, error, empty }: { loading: boolean; error: Error | null; empty: string }) {
  if (error) {
    return (
      <p className="problem" role="alert">
        {error.message}
      </p>
    );
  }
  return (
    <p className="notice" aria-busy={loading}>
      {loading ? "Loading…" : empty}
    </p>
  );
}
