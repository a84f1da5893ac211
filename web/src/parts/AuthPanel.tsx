import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { ApiError, post } from "../lib/api";
import { Problem } from "./Problem";

type Step = "signIn" | "signUp" | "code";

const TITLES: Record<Step, string> = {
  signIn: "Sign in",
  signUp: "Create account",
  code: "Enter the code from the mail",
};

export function AuthPanel() {
  const queries = useQueryClient();
  const [step, setStep] = useState<Step>("signIn");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [totp, setTotp] = useState("");

  const submit = useMutation({
    mutationFn: async () => {
      if (step === "signUp") {
        await post("/v1/auth/signup", { email, password });
        setStep("code");
        return;
      }
      if (step === "code") await post("/v1/auth/verify-otp", { email, code });
      else await post("/v1/auth/signin", { email, password, totpCode: totp });
      await queries.invalidateQueries({ queryKey: ["me"] });
    },
    onError: (error) => {
      if (error instanceof ApiError && error.reason === "EMAIL_NOT_VERIFIED") setStep("code");
    },
  });
  const needsTotp = submit.error instanceof ApiError && submit.error.reason === "TOTP_REQUIRED";

  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    submit.mutate();
  };
  const go = (next: Step) => {
    submit.reset();
    setStep(next);
  };

  return (
    <section className="panel" aria-label={TITLES[step]}>
      <h2>{TITLES[step]}</h2>
      <form onSubmit={onSubmit}>
        <label>
          E-mail
          <input
            type="email"
            autoComplete="email"
            required
            value={email}
            readOnly={step === "code"}
            onChange={(event) => setEmail(event.target.value)}
          />
        </label>
        {step === "code" ? (
          <label>
            Code
            <input
              inputMode="numeric"
              autoComplete="one-time-code"
              pattern="[0-9]{6}"
              title="Six digits"
              required
              autoFocus
              value={code}
              onChange={(event) => setCode(event.target.value)}
            />
          </label>
        ) : (
          <label>
            Password
            <input
              type="password"
              autoComplete={step === "signUp" ? "new-password" : "current-password"}
              required
              value={password}
              onChange={(event) => setPassword(event.target.value)}
            />
          </label>
        )}
        {(needsTotp || totp) && step === "signIn" && (
          <label>
            Code of your authenticator app
            <input
              inputMode="numeric"
              autoComplete="one-time-code"
              value={totp}
              onChange={(event) => setTotp(event.target.value)}
            />
          </label>
        )}
        <Problem error={submit.error} />
        <button type="submit" className="primary" disabled={submit.isPending}>
          {submit.isPending ? "One moment…" : TITLES[step === "code" ? "signIn" : step]}
        </button>
      </form>
      {step === "signIn" && (
        <button type="button" className="quiet" onClick={() => go("signUp")}>
          New here? Create an account
        </button>
      )}
      {step !== "signIn" && (
        <button type="button" className="quiet" onClick={() => go("signIn")}>
          Back to sign in
        </button>
      )}
      {step === "code" && (
        <p className="hint">
          In demo mode the mail is in the{" "}
          <a href={`/dev/mailbox?to=${encodeURIComponent(email)}`} target="_blank" rel="noreferrer">
            development mailbox
          </a>
          .
        </p>
      )}
    </section>
  );
}
