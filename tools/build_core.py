"""Compile the engine's core with mypyc: `python tools/build_core.py [FOLDER]`.

Optional: the same source runs uncompiled, several times slower. A build goes into a folder named
after its sources (default `.build/core`), so it is made once and never beside a source it is not
of; `TIDEBOOK_ENGINE_CORE_DIR` tells the engine where the builds are. Without a C compiler or
without mypyc there is one line of explanation and nothing to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from services.engine.compiled import DOMAIN, HOT, build_name  # noqa: E402

# Left to the interpreter: what readers get copies in, as frozen dataclasses.
INTERPRETED = ("__init__", "views")
_KEPT = 3
_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
options = ["--explicit-package-bases", "--namespace-packages"]
setup(name="core", packages=[], ext_modules=mypycify(options + sys.argv[3:], opt_level="2"),
      script_args=["build_ext", "--build-lib", sys.argv[1], "--build-temp", sys.argv[2]])
"""


class NotBuilt(Exception):
    """The core cannot be compiled here; the message says why."""


def build(folder: Path) -> Path:
    """The build of the present sources in `folder`, made if there is none. Raises `NotBuilt`."""
    target = folder / build_name()
    if target.is_dir():
        return target
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        raise NotBuilt(f"there is no C compiler ({compiler})")
    if importlib.util.find_spec("mypyc") is None:
        raise NotBuilt("mypyc is not installed")
    print("Compiling the engine's core (once, up to two minutes)", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as scratch:
        made = _compile(Path(scratch))
        # After what was compiled: a source may have changed meanwhile.
        target = folder / build_name(Path(scratch))
        try:
            made.rename(target)
        except OSError:
            # Someone else was quicker.
            if not target.is_dir():
                raise
    _forget_old(folder)
    return target


def _compile(work: Path) -> Path:
    """Compile a copy of the sources in `work`; returns the folder with the modules."""
    for package in ("kernel", DOMAIN):
        shutil.copytree(
            ROOT / package, work / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in HOT:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, work / name)
    (work / "services" / "engine" / "__init__.py").touch()
    (work / "compile.py").write_text(_SETUP)
    modules = sorted(path.stem for path in (work / DOMAIN).glob("*.py"))
    sources = [f"{DOMAIN}/{module}.py" for module in modules if module not in INTERPRETED]
    sources += HOT
    done = subprocess.run(
        [sys.executable, "compile.py", "out", "temp", *sources],
        cwd=work,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(work)},
    )
    if done.returncode:
        # The compiler's complaint, not the commands before it.
        raise NotBuilt(
            "it does not compile: " + "\n".join((done.stdout + done.stderr).split("\n")[-12:])
        )
    return work / "out"


def _forget_old(folder: Path) -> None:
    builds = [path for path in folder.iterdir() if not path.name.startswith("making-")]
    for old in sorted(builds, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".build" / "core")
    try:
        build(parser.parse_args().folder)
    except NotBuilt as reason:
        print(f"The engine's core runs uncompiled, more slowly: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
