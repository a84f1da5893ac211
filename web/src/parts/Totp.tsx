import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useMemo, useRef, useState } from "react";
import { renderSVG } from "uqr";
import type {
  ConfirmTotpResponseJson,
  CreateRecoveryCodesResponseJson,
  EnableTotpResponseJson,
  UserJson,
} from "../gen/tidebook/auth/v1/auth_pb";
import { post } from "../lib/api";
import { CodeField, NO_PROOF, PasswordField, ProofField } from "./AuthFields";
import { Problem } from "./Problem";

/** With fewer than this it is time for new ones. */
const FEW_CODES = 3;

/** The second factor: on with an authenticator app, off with the password and a proof of it. */
export function Totp({ user }: { user: UserJson }) {
  const [codes, setCodes] = useState<readonly string[]>([]);
  const enabled = user.totpEnabled ?? false;
  return (
    <section className="panel" aria-label="Second factor">
      <h2>
        Second factor <span className={`badge ${enabled ? "good" : "warn"}`}>{enabled ? "on" : "off"}</span>
      </h2>
      {codes.length > 0 ? (
        <RecoveryCodes codes={codes} onKept={() => setCodes([])} />
      ) : enabled ? (
        <InForce left={user.recoveryCodesLeft ?? 0} onCodes={setCodes} />
      ) : (
        <SetUp onCodes={setCodes} />
      )}
    </section>
  );
}

interface Props {
  /** Recovery codes that are to be shown, this once. */
  onCodes: (codes: readonly string[]) => void;
}

function SetUp({ onCodes }: Props) {
  const refresh = useRefreshedUser();
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const begin = useMutation({
    mutationFn: () => post<EnableTotpResponseJson>("/v1/auth/totp", { password }),
  });
  const confirm = useMutation({
    mutationFn: () => post<ConfirmTotpResponseJson>("/v1/auth/totp:confirm", { code }),
    onSuccess: (answer) => {
      onCodes(answer.recoveryCodes ?? []);
      return refresh();
    },
  });
  const secret = begin.data;
  const act = secret ? confirm : begin;
  return (
    <form
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        act.mutate();
      }}
    >
      <p className="hint">
        A code of an authenticator app protects the account even if the password is known to others.
      </p>
      {secret ? (
        <>
          <Secret secret={secret} />
          <CodeField label="Code of the app" value={code} onChange={setCode} />
        </>
      ) : (
        <PasswordField label="Your password" fresh={false} value={password} onChange={setPassword} />
      )}
      <Problem error={act.error} />
      <button type="submit" className="primary" disabled={act.isPending}>
        {secret ? "Turn on" : "Set up"}
      </button>
    </form>
  );
}

function InForce({ left, onCodes }: Props & { left: number }) {
  const refresh = useRefreshedUser();
  const [password, setPassword] = useState("");
  const [proof, setProof] = useState(NO_PROOF);
  const request = { password, ...proof };
  // A code was spent, whatever came of it.
  const onSettled = () => {
    setProof(NO_PROOF);
    return refresh();
  };
  const disable = useMutation({ mutationFn: () => post("/v1/auth/totp:disable", request), onSettled });
  const renew = useMutation({
    mutationFn: () => post<CreateRecoveryCodesResponseJson>("/v1/auth/recovery-codes", request),
    onSuccess: (answer) => onCodes(answer.recoveryCodes ?? []),
    onSettled,
  });
  const pending = disable.isPending || renew.isPending;
  return (
    <form
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        const { submitter } = event.nativeEvent as SubmitEvent;
        const [act, other] = submitter?.getAttribute("value") === "disable" ? [disable, renew] : [renew, disable];
        other.reset();
        act.mutate();
      }}
    >
      <p className="hint">
        Signing in asks for a code of your authenticator app.{" "}
        <span className={left < FEW_CODES ? "badge warn" : ""}>Recovery codes left: {left}.</span> Each opens the
        account once without the app.
      </p>
      <PasswordField label="Your password" fresh={false} value={password} onChange={setPassword} />
      <ProofField label="Code of the app" focus={false} value={proof} onChange={setProof} />
      <Problem error={disable.error ?? renew.error} />
      <button type="submit" className="primary" disabled={pending}>
        Make new recovery codes
      </button>
      <button type="submit" value="disable" disabled={pending}>
        Turn off
      </button>
    </form>
  );
}

function RecoveryCodes({ codes, onKept }: { codes: readonly string[]; onKept: () => void }) {
  const file = `data:text/plain;charset=utf-8,${encodeURIComponent(`${codes.join("\n")}\n`)}`;
  const words = useRef<HTMLParagraphElement>(null);
  // What had the focus is gone.
  useEffect(() => words.current?.focus(), []);
  return (
    <div className="stack">
      <p ref={words} tabIndex={-1} role="status">
        These are your recovery codes. Each opens the account once, with your password, when you do not have the app.
        Keep them where the app is not: they cannot be shown again.
      </p>
      <ul className="codes" aria-label="Recovery codes">
        {codes.map((code) => (
          <li key={code}>
            <code>{code}</code>
          </li>
        ))}
      </ul>
      <a href={file} download="tidebook-recovery-codes.txt">
        Save them as a file
      </a>
      <button type="button" className="primary" onClick={onKept}>
        I have kept them
      </button>
    </div>
  );
}

function useRefreshedUser() {
  const queries = useQueryClient();
  return () => {
    void queries.invalidateQueries({ queryKey: ["mine", "events"] });
    return queries.invalidateQueries({ queryKey: ["me"] });
  };
}

function Secret({ secret: { secret = "", otpauthUrl = "" } }: { secret: EnableTotpResponseJson }) {
  const code = useMemo(
    () => `data:image/svg+xml,${encodeURIComponent(renderSVG(otpauthUrl, { border: 2 }))}`,
    [otpauthUrl],
  );
  return (
    <div className="secret">
      <img src={code} alt="QR code for the authenticator app" width="160" height="160" />
      <p className="hint">
        Scan it with the app, or type this secret into it: <code>{secret}</code>
      </p>
    </div>
  );
}
