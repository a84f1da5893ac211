"""Check that locks/*.txt are what `make lock` would keep for this pyproject.toml.

Usage: `check_locks.py UV`. Compiling asks the package index; without a network the check falls back
to comparing the names and floors of the direct dependencies with what is locked, and says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# As in the Makefile.
_OPTIONS = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
_GROUPS = {"run": ["web", "core"], "dev": ["web", "core", "dev"]}
# Where Tidebook may be installed: one environment of markers for each kind of place.
_PLACES = [
    {
        "sys_platform": platform,
        "platform_system": system,
        "os_name": "nt" if platform == "win32" else "posix",
        "platform_machine": machine,
        "implementation_name": implementation.lower(),
        "platform_python_implementation": implementation,
        "python_version": version,
        "python_full_version": f"{version}.1",
    }
    for platform, system, machines in (
        ("linux", "Linux", ("x86_64", "aarch64", "riscv64")),
        ("darwin", "Darwin", ("x86_64", "arm64")),
        ("win32", "Windows", ("AMD64", "ARM64", "x86")),
    )
    for machine in machines
    for implementation in ("CPython", "PyPy")
    for version in ("3.11", "3.12", "3.13", "3.14", "3.15")
]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def main(uv: str) -> None:
    wrong = [problem for name in _GROUPS for problem in _unmet(name)]
    if wrong:
        sys.exit("\n".join([*wrong, "run `make lock`"]))
    for name in _GROUPS:
        lock = ROOT / "locks" / f"{name}.txt"
        compiled = _compile(uv, name)
        if compiled is None:
            print("the package index cannot be reached: only the direct dependencies were checked")
            return
        if _meaning(compiled) != _meaning(lock.read_text()):
            sys.exit(f"{lock.relative_to(ROOT)} is not what pyproject.toml asks for: `make lock`")


def _meaning(lock: str) -> set[tuple[str, str, frozenset[str], tuple[bool, ...]]]:
    """Each pin with its hashes and where it is for: what two versions of uv write differently is
    the same if it means the same everywhere.
    """
    pins: set[tuple[str, str, frozenset[str], tuple[bool, ...]]] = set()
    for line in lock.replace("\\\n", " ").splitlines():
        text, *hashes = line.split(" --hash=")
        if not text.strip() or text.startswith("#"):
            continue
        requirement = Requirement(text.strip())
        marker = requirement.marker
        where = tuple(marker is None or marker.evaluate(place) for place in _PLACES)
        pins.add(
            (
                canonicalize_name(requirement.name),
                str(requirement.specifier),
                frozenset(one.strip() for one in hashes),
                where,
            )
        )
    return pins


def _unmet(name: str) -> list[str]:
    """Direct dependencies that the lock file does not meet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for group in _GROUPS[name]:
        wanted += project["dependency-groups"][group]
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    locked = {canonicalize_name(package): version for package, version in _PIN.findall(text)}
    problems = []
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"locks/{name}.txt has {version or 'no version'} for {requirement}")
    return problems


def _compile(uv: str, name: str) -> str | None:
    """The lock file compiled anew around its own pins; None when the index cannot be reached."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "lock.txt"
        target.write_text((ROOT / "locks" / f"{name}.txt").read_text())
        command = [uv, "pip", "compile", "pyproject.toml", *_OPTIONS, "--python-version", "3.11"]
        for group in _GROUPS[name]:
            command += ["--group", group]
        if name != "run":
            command += ["-c", "locks/run.txt"]
        done = subprocess.run(
            [*command, "-o", str(target)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return target.read_text()
        if "No solution found" in done.stderr:
            sys.exit(f"{done.stderr}\nrun `make lock`")
        return None


if __name__ == "__main__":
    main(sys.argv[1])
