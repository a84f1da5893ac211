import type { UserJson } from "../gen/tidebook/auth/v1/auth_pb";
import { useConnection, useFeed, useSignOut } from "../lib/hooks";
import type { Theme } from "../lib/page";
import { Keyboard } from "./Keyboard";

const FEED_NAMES: Record<string, string> = {
  FEED_KIND_BACKPACK: "Backpack live",
  FEED_KIND_REPLAY: "Recorded prices",
  FEED_KIND_SYNTHETIC: "Synthetic prices",
};

export const VIEWS = [
  ["/", "Trade"],
  ["/wallet", "Wallet"],
  ["/history", "History"],
  ["/security", "Security"],
  ["/status", "Status"],
] as const;

const NEXT_THEME: Record<Theme, Theme> = { system: "dark", dark: "light", light: "system" };
const THEME_SIGNS: Record<Theme, string> = { system: "◐", dark: "☾", light: "☀" };

interface Props {
  user: UserJson | null | undefined;
  path: string;
  go: (path: string) => void;
  theme: Theme;
  setTheme: (theme: Theme) => void;
}

export function Header({ user, path, go, theme, setTheme }: Props) {
  const signOut = useSignOut(false);
  const here = path.startsWith("/markets/") ? "/" : path;
  return (
    <header>
      <h1>
        <img src="/icon.svg" alt="" width="24" height="24" /> Tidebook
      </h1>
      <nav aria-label="Page">
        {VIEWS.map(([target, name]) => (
          <a
            key={target}
            href={target}
            aria-current={here === target ? "page" : undefined}
            onClick={(event) => {
              event.preventDefault();
              go(target);
            }}
          >
            {name}
          </a>
        ))}
      </nav>
      <span className="spacer" />
      <Feed />
      <ConnectionState />
      <Keyboard />
      <button
        type="button"
        className="quiet"
        aria-label={`Colours: ${theme}. Switch to ${NEXT_THEME[theme]}`}
        title={`Colours: ${theme}`}
        onClick={() => setTheme(NEXT_THEME[theme])}
      >
        {THEME_SIGNS[theme]}
      </button>
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
export function Feed() {
  const feed = useFeed();
  if (feed === undefined) return null;
  return (
    <span className={`badge ${feed.simulated ? "warn" : "good"}`} title={feed.detail}>
      <span className={feed.simulated ? "wide" : ""}>{FEED_NAMES[feed.source ?? ""] ?? "No feed"}</span>
      {feed.simulated && (
        <>
          <span className="wide"> · </span>simulated
        </>
      )}
      {!feed.healthy && " · not fresh"}
    </span>
  );
}

export function ConnectionState() {
  const connection = useConnection();
  const text = { open: "Live", connecting: "Connecting…", lost: "Reconnecting…" }[connection];
  return (
    <span role="status" className={`badge ${connection === "open" ? "good" : "bad"}`}>
      {text}
    </span>
  );
}
