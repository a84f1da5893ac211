"""buf over the contracts: lint, format, and no change that breaks a client of main.

The old side of the comparison is built by the old generator from a checkout of the old commit:
origin/main where there is one, else the last commit.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).parent / "buf"
IMAGE = ROOT / ".build" / "image.binpb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", help="commit to compare with")
    against = parser.parse_args().against or _main_commit()
    IMAGE.parent.mkdir(exist_ok=True)
    _run([sys.executable, str(ROOT / "tools" / "gen.py"), "--image", str(IMAGE)], "generate")
    _run([str(BUF), "lint", str(IMAGE), "--config", str(ROOT / "buf.yaml")], "lint")
    _run([str(BUF), "format", "--diff", "--exit-code", str(ROOT / "proto")], "format")
    with tempfile.TemporaryDirectory() as scratch:
        old = _old_image(against, Path(scratch))
        if old is None:
            print(f"{against} has no contracts yet: nothing to break")
            return
        config = ["--config", str(ROOT / "buf.yaml"), "--against-config", str(ROOT / "buf.yaml")]
        _run([str(BUF), "breaking", str(IMAGE), "--against", str(old), *config], "breaking")


def _main_commit() -> str:
    known = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "origin/main"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return "origin/main" if known.returncode == 0 else "HEAD"


def _old_image(commit: str, scratch: Path) -> Path | None:
    archive = subprocess.run(
        ["git", "archive", commit, "proto", "tools/gen.py"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(scratch, filter="data")
    image = scratch / "old.binpb"
    _run([sys.executable, str(scratch / "tools" / "gen.py"), "--image", str(image)], "generate")
    return image


def _run(command: list[str], what: str) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"proto: {what} failed; the findings are above")


if __name__ == "__main__":
    main()
