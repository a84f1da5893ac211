import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import type {
  ListSecurityEventsResponseJson,
  ListSessionsResponseJson,
  UserJson,
} from "../gen/tidebook/auth/v1/auth_pb";
import { get, post, remove } from "../lib/api";
import { useSignOut } from "../lib/hooks";
import { browserName, dateTime, words } from "../lib/names";
import { ApiKeys } from "./ApiKeys";
import { PasswordField } from "./AuthFields";
import { Placeholder, Table } from "./Basics";
import { Problem } from "./Problem";
import { Totp } from "./Totp";

export function Security({ user }: { user: UserJson }) {
  return (
    <main className="pages">
      <Totp user={user} />
      <Password />
      <ApiKeys />
      <Sessions />
      <Events />
    </main>
  );
}

function Password() {
  const queries = useQueryClient();
  const [current, setCurrent] = useState("");
  const [next, setNext] = useState("");
  const change = useMutation({
    mutationFn: () => post("/v1/auth/password", { currentPassword: current, newPassword: next }),
    onSuccess: () => {
      setCurrent("");
      setNext("");
      return queries.invalidateQueries({ queryKey: ["mine"] });
    },
  });
  return (
    <section className="panel" aria-label="Password">
      <h2>Password</h2>
      <form
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          change.mutate();
        }}
      >
        <PasswordField label="Current password" fresh={false} value={current} onChange={setCurrent} />
        <PasswordField label="New password" fresh value={next} onChange={setNext} />
        <Problem error={change.error} />
        {change.isSuccess && (
          <p className="done" role="status">
            Changed; all other sessions were ended.
          </p>
        )}
        <button type="submit" className="primary" disabled={change.isPending}>
          Change password
        </button>
      </form>
    </section>
  );
}

function Sessions() {
  const queries = useQueryClient();
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "sessions"],
    queryFn: () => get<ListSessionsResponseJson>("/v1/auth/sessions"),
    refetchInterval: 15_000,
  });
  const end = useMutation({
    mutationFn: (id: string) => remove(`/v1/auth/sessions/${id}`),
    onSettled: () => queries.invalidateQueries({ queryKey: ["mine"] }),
  });
  const endAll = useSignOut(true);
  const sessions = data?.sessions ?? [];
  return (
    <section className="panel whole" aria-label="Sessions">
      <h2>Sessions</h2>
      {sessions.length === 0 && <Placeholder loading={isPending} error={error} empty="No sessions." />}
      {sessions.length > 0 && (
        <Table label="Open sessions" head={["Opened", "Last used", "Address", "Browser", "!Actions"]}>
          {sessions.map((session) => (
            <tr key={session.sessionId}>
              <td>{dateTime(session.createTime)}</td>
              <td>{dateTime(session.lastUsedTime)}</td>
              <td>{session.ipAddress}</td>
              <td className="long" title={session.userAgent}>
                {browserName(session.userAgent)}
              </td>
              <td className="actions">
                {session.current ? (
                  "this one"
                ) : (
                  <button
                    type="button"
                    className="quiet"
                    aria-label={`End the session of ${dateTime(session.createTime)}`}
                    disabled={end.isPending && end.variables === session.sessionId}
                    onClick={() => end.mutate(session.sessionId ?? "")}
                  >
                    End
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
      <Problem error={end.error} />
      {sessions.length > 0 && (
        <button type="button" className="quiet" disabled={endAll.isPending} onClick={() => endAll.mutate()}>
          Sign out everywhere, here too
        </button>
      )}
      <Problem error={endAll.error} />
    </section>
  );
}

function Events() {
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "events"],
    queryFn: () => get<ListSecurityEventsResponseJson>("/v1/auth/security-events?pageSize=50"),
  });
  const events = data?.events ?? [];
  return (
    <section className="panel whole" aria-label="Security events">
      <h2>What happened</h2>
      {events.length === 0 && <Placeholder loading={isPending} error={error} empty="Nothing yet." />}
      {events.length > 0 && (
        <Table label="Security events" head={["Time", "Event", "Address", "Browser"]}>
          {events.map((event) => (
            <tr key={`${event.time} ${event.kind}`}>
              <td>{dateTime(event.time)}</td>
              <td>{words(event.kind, "SECURITY_EVENT_KIND_")}</td>
              <td>{event.ipAddress}</td>
              <td className="long" title={event.userAgent}>
                {browserName(event.userAgent)}
              </td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
