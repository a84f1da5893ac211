"""Compile the engine's core with mypyc, in place: `python tools/build_core.py [--clean]`.

Optional. The same source runs uncompiled, several times slower; without a C compiler there is
nothing to do. Python prefers a compiled module to its source, so build again after every change of
the core, or clean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOMAIN = ROOT / "services" / "engine" / "domain"
# What runs for every order. Snapshots and views are left to the interpreter.
MODULES = (
    "record",
    "constants",
    "commands",
    "events",
    "position_commands",
    "position_events",
    "triggers",
    "accounts",
    "book",
    "ranges",
    "state",
    "matching",
    "placing",
    "amending",
    "system",
    "exchange",
)
SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
options = ["--explicit-package-bases", "--namespace-packages"]
setup(name="core", packages=[], ext_modules=mypycify(options + sys.argv[3:], opt_level="3"),
      script_args=["build_ext", "--build-lib", sys.argv[1], "--build-temp", sys.argv[2]])
"""


def clean() -> None:
    """Remove every compiled module of the core."""
    for compiled in (*DOMAIN.glob("*.so"), *DOMAIN.glob("*.pyd"), *ROOT.glob("*__mypyc.*")):
        compiled.unlink()


def build() -> None:
    """Compile in a temporary folder and copy the modules beside their source."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for package in ("kernel", "services/engine/domain"):
            shutil.copytree(ROOT / package, work / package, ignore=shutil.ignore_patterns("*.so"))
        (work / "services" / "engine" / "__init__.py").touch()
        (work / "build_core_setup.py").write_text(SETUP)
        sources = [f"services/engine/domain/{module}.py" for module in MODULES]
        subprocess.run(
            [sys.executable, "build_core_setup.py", "out", "temp", *sources],
            cwd=work,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(work)},
        )
        clean()
        out = work / "out"
        for compiled in [path for path in out.rglob("*") if path.suffix in (".so", ".pyd")]:
            shutil.copy2(compiled, ROOT / compiled.relative_to(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", action="store_true", help="remove the compiled modules")
    if parser.parse_args().clean:
        clean()
        return
    if shutil.which(os.environ.get("CC", "cc")) is None:
        print("no C compiler: the core stays as it is, uncompiled")
        return
    build()
    print(f"compiled {len(MODULES)} modules of the core; `--clean` goes back to the source")


if __name__ == "__main__":
    main()
