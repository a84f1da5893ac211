import { useState } from "react";

interface Props {
  label: string;
  value: string;
  onChange: (text: string) => void;
}

/**
 * Six digits, from a mail or an app; the spaces that some show between them are not meant. `focus` where it is
 * what a person is asked for now.
 */
export function CodeField({ label, value, onChange, focus = true }: Props & { focus?: boolean }) {
  return (
    <label>
      {label}
      <input
        inputMode="numeric"
        autoComplete="one-time-code"
        pattern="[0-9]{6}"
        title="Six digits"
        required
        autoFocus={focus}
        value={value}
        onChange={(event) => onChange(event.target.value.replace(/\s/g, ""))}
      />
    </label>
  );
}

/** What proves the second factor: a code of the app or, where that is lost, a recovery code. */
export interface Proof {
  code: string;
  recoveryCode: string;
}

export const NO_PROOF: Proof = { code: "", recoveryCode: "" };

interface ProofProps {
  label: string;
  value: Proof;
  onChange: (proof: Proof) => void;
  focus?: boolean;
}

/** A code of the app, unless somebody says that they do not have it. */
export function ProofField({ label, value, onChange, focus = true }: ProofProps) {
  const [lost, setLost] = useState(false);
  return (
    <>
      {lost ? (
        <label>
          Recovery code
          <input
            autoComplete="off"
            autoCapitalize="none"
            spellCheck={false}
            required
            autoFocus
            maxLength={64}
            value={value.recoveryCode}
            onChange={(event) => onChange({ code: "", recoveryCode: event.target.value })}
          />
        </label>
      ) : (
        <CodeField
          label={label}
          focus={focus}
          value={value.code}
          onChange={(code) => onChange({ code, recoveryCode: "" })}
        />
      )}
      <button
        type="button"
        className="quiet"
        onClick={() => {
          setLost(!lost);
          onChange(NO_PROOF);
        }}
      >
        {lost ? "Use a code of the app" : "Use a recovery code instead"}
      </button>
    </>
  );
}

/** A password that can be looked at; `fresh` when it is being chosen. */
export function PasswordField({ label, value, onChange, fresh }: Props & { fresh: boolean }) {
  const [shown, setShown] = useState(false);
  return (
    <div className="password">
      <label>
        <span>
          {label} {fresh && <small>at least 10 characters</small>}
        </span>
        <input
          type={shown ? "text" : "password"}
          autoComplete={fresh ? "new-password" : "current-password"}
          required
          maxLength={128}
          value={value}
          onChange={(event) => onChange(event.target.value)}
        />
      </label>
      <label className="inline">
        <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
        Show it
      </label>
    </div>
  );
}
