import { useMutation, useQueryClient } from "@tanstack/react-query";
import type { UserJson } from "../gen/tidebook/auth/v1/auth_pb";
import { post } from "../lib/api";
import { useConnection, useFeed, useSocket } from "../lib/hooks";

const FEED_NAMES: Record<string, string> = {
  FEED_KIND_BACKPACK: "Backpack live",
  FEED_KIND_REPLAY: "Recorded prices",
  FEED_KIND_SYNTHETIC: "Synthetic prices",
};

export function Header({ user }: { user: UserJson | null | undefined }) {
  const queries = useQueryClient();
  const socket = useSocket();
  const signOut = useMutation({
    mutationFn: () => post("/v1/auth/signout", {}),
    onSettled: async () => {
      await queries.invalidateQueries({ queryKey: ["me"] });
      socket.restart();
    },
  });
  return (
    <header>
      <h1>
        <img src="/icon.svg" alt="" width="26" height="26" /> Tidebook
      </h1>
      <Feed />
      <ConnectionState />
      <span className="spacer" />
      {user && (
        <>
          <span className="who">{user.email}</span>
          <button type="button" className="quiet" onClick={() => signOut.mutate()}>
            Sign out
          </button>
        </>
      )}
    </header>
  );
}

/** Simulated prices are called simulated wherever they are shown. */
function Feed() {
  const feed = useFeed();
  if (feed === undefined) return null;
  return (
    <span className={`badge ${feed.simulated ? "warn" : "good"}`} title={feed.detail}>
      {FEED_NAMES[feed.source ?? ""] ?? "No feed"}
      {feed.simulated && " · simulated"}
      {!feed.healthy && " · not fresh"}
    </span>
  );
}

function ConnectionState() {
  const connection = useConnection();
  const text = { open: "Live", connecting: "Connecting…", lost: "Reconnecting…" }[connection];
  return (
    <span role="status" className={`badge ${connection === "open" ? "good" : "bad"}`}>
      {text}
    </span>
  );
}
