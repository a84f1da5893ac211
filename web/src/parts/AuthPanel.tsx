import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { ApiError, post } from "../lib/api";
import { CodeField, NO_PROOF, PasswordField, ProofField } from "./AuthFields";
import { Problem } from "./Problem";

/** What a visitor is doing; the codes come by mail. */
type Step = "signIn" | "signUp" | "code" | "forgotten" | "newPassword";

const TITLES: Record<Step, string> = {
  signIn: "Sign in",
  signUp: "Create account",
  code: "Enter the code from the mail",
  forgotten: "Forgotten password",
  newPassword: "Choose a new password",
};
const BUTTONS: Record<Step, string> = {
  signIn: "Sign in",
  signUp: "Create account",
  code: "Sign in",
  forgotten: "Send a code",
  newPassword: "Set the password",
};

const ASKS: Record<string, string> = {
  TOTP_REQUIRED: "This account asks for a code of your authenticator app.",
  EMAIL_CODE_REQUIRED: "Your password is right. A code is on its way to your address: enter it to sign in.",
};
// Refusals that come with a code in the mail.
const SENDS_CODE = new Set(["EMAIL_NOT_VERIFIED", "EMAIL_CODE_REQUIRED"]);

export function AuthPanel() {
  const queries = useQueryClient();
  const [step, setStep] = useState<Step>("signIn");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [proof, setProof] = useState(NO_PROOF);
  const [asksForProof, setAsksForProof] = useState(false);
  // The password was right, and a code is on its way.
  const [asksForCode, setAsksForCode] = useState(false);
  const [said, setSaid] = useState("");
  const signedIn = () => queries.invalidateQueries({ queryKey: ["me"] });
  const move = (next: Step, words = "") => {
    setStep(next);
    setSaid(words);
  };

  const steps: Record<Step, () => Promise<unknown>> = {
    signIn: () =>
      post("/v1/auth/signin", {
        email,
        password,
        totpCode: proof.code,
        recoveryCode: proof.recoveryCode,
        ...(asksForCode && { emailCode: code }),
      }).then(signedIn),
    signUp: () => post("/v1/auth/signup", { email, password }).then(() => move("code")),
    code: () => post("/v1/auth/verify-otp", { email, code }).then(signedIn),
    forgotten: async () => {
      await post("/v1/auth/password-reset", { email });
      setPassword("");
      setCode("");
      move("newPassword", "If the address has an account, a code is on its way to it.");
    },
    newPassword: async () => {
      await post("/v1/auth/password-reset:confirm", { email, code, newPassword: password });
      setCode("");
      move("signIn", "The password is changed and every session ended. Sign in with it.");
    },
  };
  const submit = useMutation({
    mutationFn: () => steps[step](),
    onError: (error) => {
      if (!(error instanceof ApiError)) return;
      if (error.reason === "EMAIL_NOT_VERIFIED") move("code");
      if (error.reason === "TOTP_REQUIRED") setAsksForProof(true);
      if (error.reason === "EMAIL_CODE_REQUIRED") setAsksForCode(true);
    },
  });
  const again = useMutation({
    mutationFn: async () => {
      if (step === "newPassword") return post("/v1/auth/password-reset", { email });
      // Signing in without a code sends another one, and is refused.
      return post("/v1/auth/signin", { email, password }).catch((error: unknown) => {
        if (!(error instanceof ApiError && SENDS_CODE.has(error.reason))) throw error;
      });
    },
    onMutate: () => submit.reset(),
    onSuccess: () => setSaid("Another code is on its way."),
  });
  const refusal = submit.error instanceof ApiError ? submit.error : null;
  const asked = ASKS[refusal?.reason ?? ""];
  const field = (name: string) => (refusal?.field === name ? refusal : null);

  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    submit.mutate();
  };
  const go = (next: Step) => {
    setProof(NO_PROOF);
    setAsksForProof(false);
    setAsksForCode(false);
    setCode("");
    submit.reset();
    again.reset();
    move(next);
  };
  const byMail = step === "code" || step === "newPassword" || (step === "signIn" && asksForCode);
  const withPassword = step === "signIn" || step === "signUp" || step === "newPassword";

  return (
    <section className="panel" aria-label={TITLES[step]}>
      <h2>{TITLES[step]}</h2>
      <form onSubmit={onSubmit}>
        {said && (
          <p className="done" role="status">
            {said}
          </p>
        )}
        <label>
          E-mail
          <input
            type="email"
            autoComplete="email"
            required
            aria-invalid={field("email") ? true : undefined}
            value={email}
            readOnly={byMail && step !== "signIn"}
            onChange={(event) => {
              setEmail(event.target.value);
              // The code is another address's.
              setAsksForCode(false);
            }}
          />
        </label>
        {byMail && step !== "signIn" && <CodeField label="Code" value={code} onChange={setCode} />}
        {withPassword && (
          <PasswordField
            key={step}
            label={step === "newPassword" ? "New password" : "Password"}
            fresh={step !== "signIn"}
            value={password}
            onChange={setPassword}
          />
        )}
        {asksForProof && step === "signIn" && (
          <ProofField label="Code of your authenticator app" value={proof} onChange={setProof} />
        )}
        {asksForCode && step === "signIn" && <CodeField label="Code from the mail" value={code} onChange={setCode} />}
        {/* Being asked for a code is no failure, until one was given. */}
        {asked ? (
          <p className="hint" role="status">
            {asked}
          </p>
        ) : (
          <Problem error={submit.error ?? again.error} />
        )}
        <button type="submit" className="primary" disabled={submit.isPending}>
          {submit.isPending ? "One moment…" : BUTTONS[step]}
        </button>
      </form>
      {byMail && (
        <div className="stack">
          <button type="button" className="quiet" disabled={again.isPending} onClick={() => again.mutate()}>
            Send another code
          </button>
        </div>
      )}
      {step === "signIn" && (
        <div className="stack">
          <button type="button" className="quiet" onClick={() => go("signUp")}>
            New here? Create an account
          </button>
          <button type="button" className="quiet" onClick={() => go("forgotten")}>
            Forgotten your password?
          </button>
        </div>
      )}
      {step !== "signIn" && (
        <div className="stack">
          <button type="button" className="quiet" onClick={() => go("signIn")}>
            Back to sign in
          </button>
        </div>
      )}
      {byMail && (
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
