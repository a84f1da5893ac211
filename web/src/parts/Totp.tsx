import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useMemo, useState } from "react";
import { renderSVG } from "uqr";
import type { EnableTotpResponseJson } from "../gen/tidebook/auth/v1/auth_pb";
import { post } from "../lib/api";
import { CodeField, PasswordField } from "./AuthFields";
import { Problem } from "./Problem";

/** The second factor: on with an authenticator app, off with the password and a code of it. */
export function Totp({ enabled }: { enabled: boolean }) {
  const queries = useQueryClient();
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const done = () => {
    setPassword("");
    setCode("");
    return queries.invalidateQueries({ queryKey: ["me"] });
  };
  const begin = useMutation({
    mutationFn: () => post<EnableTotpResponseJson>("/v1/auth/totp", { password }),
  });
  const confirm = useMutation({
    mutationFn: () => post("/v1/auth/totp:confirm", { code }),
    onSuccess: async () => {
      begin.reset();
      await done();
    },
  });
  const disable = useMutation({
    mutationFn: () => post("/v1/auth/totp:disable", { password, code }),
    onSuccess: done,
  });
  const secret = begin.data;
  const act = enabled ? disable : secret ? confirm : begin;
  return (
    <section className="panel" aria-label="Second factor">
      <h2>
        Second factor <span className={`badge ${enabled ? "good" : "warn"}`}>{enabled ? "on" : "off"}</span>
      </h2>
      <form
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          act.mutate();
        }}
      >
        <p className="hint">
          {enabled
            ? "Signing in asks for a code of your authenticator app."
            : "A code of an authenticator app protects the account even if the password is known to others."}
        </p>
        {secret && !enabled && <Secret secret={secret} />}
        {(enabled || !secret) && (
          <PasswordField label="Your password" fresh={false} value={password} onChange={setPassword} />
        )}
        {(enabled || secret) && (
          <CodeField label="Code of the app" focus={!enabled} value={code} onChange={setCode} />
        )}
        <Problem error={act.error} />
        <button type="submit" className="primary" disabled={act.isPending}>
          {enabled ? "Turn off" : secret ? "Turn on" : "Set up"}
        </button>
      </form>
    </section>
  );
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
