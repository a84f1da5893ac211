/** What the page itself remembers: where it is, how it looks, which keys it knows. */
import { useCallback, useEffect, useState } from "react";

/** The address, changed without loading the page again. */
export function usePath(): [string, (path: string) => void] {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const follow = () => setPath(location.pathname);
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, []);
  const go = useCallback((next: string) => {
    if (next !== location.pathname) history.pushState(null, "", next);
    setPath(next);
  }, []);
  return [path, go];
}

/** A choice that survives a reload; only texts of `allowed` are taken back. */
export function useRemembered<T extends string>(key: string, first: T, allowed: readonly T[]): [T, (value: T) => void] {
  const name = `tidebook.${key}`;
  const [value, setValue] = useState<T>(() => allowed.find((text) => text === read(name)) ?? first);
  const remember = useCallback(
    (next: T) => {
      setValue(next);
      try {
        localStorage.setItem(name, next);
      } catch {
        // Private windows may refuse storage: then it is forgotten at the next visit.
      }
    },
    [name],
  );
  return [value, remember];
}

function read(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export type Theme = "system" | "dark" | "light";

/** The colours chosen, and whether they are dark now. */
export function useTheme(): { theme: Theme; setTheme: (theme: Theme) => void; dark: boolean } {
  const [theme, setTheme] = useRemembered<Theme>("theme", "system", ["system", "dark", "light"]);
  const [systemDark, setSystemDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => setSystemDark(media.matches);
    media.addEventListener("change", follow);
    return () => media.removeEventListener("change", follow);
  }, []);
  useEffect(() => {
    document.documentElement.style.colorScheme = theme === "system" ? "dark light" : theme;
  }, [theme]);
  return { theme, setTheme, dark: theme === "system" ? systemDark : theme === "dark" };
}

/** Run `action` when `key` is pressed and nobody is typing; "" is no key. */
export function useKey(key: string, action: () => void): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement | null;
      const typing = target?.closest("input, select, textarea, dialog") != null;
      if (event.key !== key || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [key, action]);
}

/** `value` once it has not changed for `ms` milliseconds. */
export function useSettled<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}
