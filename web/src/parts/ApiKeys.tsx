import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type { CreateApiKeyResponseJson, ListApiKeysResponseJson, ScopeJson } from "../gen/tidebook/auth/v1/auth_pb";
import { get, post, remove } from "../lib/api";
import { dateTime, words } from "../lib/names";
import { wholeNumber } from "../lib/screen";
import { Placeholder, Table } from "./Basics";
import { Problem } from "./Problem";

const SCOPES: readonly ScopeJson[] = ["SCOPE_READ", "SCOPE_TRADE", "SCOPE_WITHDRAW"];
const DAY_MS = 86_400_000;
const LIFETIMES = [
  { days: 30, text: "in 30 days" },
  { days: 90, text: "in 90 days" },
  { days: 365, text: "in a year" },
  { days: 0, text: "never" },
] as const;

export function ApiKeys() {
  const queries = useQueryClient();
  // What was done is among the events, too.
  const refresh = () => queries.invalidateQueries({ queryKey: ["mine"] });
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "api-keys"],
    queryFn: () => get<ListApiKeysResponseJson>("/v1/auth/api-keys"),
  });
  const revoke = useMutation({
    mutationFn: (id: string) => remove(`/v1/auth/api-keys/${id}`),
    onSettled: refresh,
  });
  const keys = data?.apiKeys ?? [];
  return (
    <section className="panel whole" aria-label="API keys">
      <h2>API keys</h2>
      <CreateKey onCreated={refresh} />
      {keys.length === 0 && <Placeholder loading={isPending} error={error} empty="No API keys." />}
      {keys.length > 0 && (
        <Table label="API keys" head={["Name", "Id", "May", "From", "Expires", "Last used", "!Actions"]}>
          {keys.map((key) => (
            <tr key={key.apiKeyId}>
              <td>{key.name}</td>
              <td>
                <code>{key.apiKeyId}</code>
              </td>
              <td>{key.scopes?.map((scope) => words(scope, "SCOPE_")).join(", ")}</td>
              <td>{key.ipAllowList?.join(", ") || "anywhere"}</td>
              <td>{key.expireTime ? dateTime(key.expireTime) : "never"}</td>
              <td>{dateTime(key.lastUsedTime)}</td>
              <td className="actions">
                <button
                  type="button"
                  className="quiet"
                  aria-label={`Revoke ${key.name}`}
                  onClick={() => revoke.mutate(key.apiKeyId ?? "")}
                >
                  Revoke
                </button>
              </td>
            </tr>
          ))}
        </Table>
      )}
      <Problem error={revoke.error} />
    </section>
  );
}

function CreateKey({ onCreated }: { onCreated: () => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<readonly ScopeJson[]>(["SCOPE_READ"]);
  const [addresses, setAddresses] = useState("");
  const [days, setDays] = useState<number>(90);
  const create = useMutation({
    mutationFn: () =>
      post<CreateApiKeyResponseJson>("/v1/auth/api-keys", {
        name,
        scopes,
        ipAllowList: addresses.split(/[\s,]+/).filter((address) => address !== ""),
        ...(days && { expireTime: new Date(Date.now() + days * DAY_MS).toISOString() }),
      }),
    onSuccess: () => {
      setName("");
      onCreated();
    },
  });
  return (
    <form
      className="line"
      aria-label="New API key"
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        create.mutate();
      }}
    >
      <label>
        Name
        <input required maxLength={64} value={name} onChange={(event) => setName(event.target.value)} />
      </label>
      <fieldset>
        <legend>It may</legend>
        {SCOPES.map((scope) => (
          <label key={scope} className="inline">
            <input
              type="checkbox"
              checked={scopes.includes(scope)}
              onChange={(event) =>
                setScopes((old) => (event.target.checked ? [...old, scope] : old.filter((other) => other !== scope)))
              }
            />
            {words(scope, "SCOPE_")}
          </label>
        ))}
      </fieldset>
      <label>
        Only from IP addresses
        <input placeholder="anywhere" value={addresses} onChange={(event) => setAddresses(event.target.value)} />
      </label>
      <label>
        Expires
        <select value={days} onChange={(event) => setDays(wholeNumber(event.target.value))}>
          {LIFETIMES.map(({ days, text }) => (
            <option key={days} value={days}>
              {text}
            </option>
          ))}
        </select>
      </label>
      <button type="submit" className="primary" disabled={create.isPending || scopes.length === 0}>
        Create key
      </button>
      <Problem error={create.error} />
      {create.data && !create.error && (
        <p className="done whole" role="status">
          Key <code>{create.data.apiKey?.apiKeyId}</code>, secret <code>{create.data.secret}</code>: keep it, it cannot be
          shown again.
        </p>
      )}
    </form>
  );
}
