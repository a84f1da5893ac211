"""The compiled core: one that `tools/build_core.py` made of this very source goes before it.

A build lives in a folder that is named after what it was made of, so one of older sources is never
found. The same source runs uncompiled as well, several times slower.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path

# `Settings.engine_core_dir`, which is read too late: importing the engine imports its core.
VARIABLE = "TIDEBOOK_ENGINE_CORE_DIR"
ROOT = Path(__file__).resolve().parents[2]
DOMAIN = "services/engine/domain"
# Compiled with the core: what else runs for every order, and the benchmark of the book alone.
HOT = (
    "services/engine/cfd_model.py",
    "services/engine/margin_model.py",
    "services/engine/place_order.py",
    "services/engine/projection.py",
    "services/engine/texts.py",
    "services/engine/wire.py",
    "services/engine/wire_answers.py",
    "services/engine/wire_format.py",
    "bench/support/bare_book.py",
)


def build_name(root: Path | None = None) -> str:
    """Name of the build of the sources below `root`, our own when not said, for this Python."""
    root = root or ROOT
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    packages = [path for package in ("kernel", DOMAIN) for path in (root / package).glob("*.py")]
    hot = [root / name for name in HOT]
    for path in sorted([*packages, *hot]):
        # An installation need not have the benchmarks.
        source = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.relative_to(root)} {len(source)} ".encode() + source)
    return digest.hexdigest()[:24]


def build_in_use() -> Path | None:
    """The folder of the build that the environment asks for; None without one of these sources."""
    folder = os.environ.get(VARIABLE)
    build = Path(folder).resolve() / build_name() if folder else None
    return build if build is not None and build.is_dir() else None


def use_if_told() -> None:
    """Take the core from the folder of builds that the environment names, if it is there.

    Only before anything of the core is imported.
    """
    build = build_in_use()
    if build is None:
        return
    from services import engine
    from services.engine import domain

    engine.__path__.insert(0, str(build / "services" / "engine"))
    domain.__path__.insert(0, str(build / DOMAIN))
    # What the compiled modules share is a module of its own.
    sys.path.append(str(build))


@cache
def is_compiled() -> bool:
    """Whether the core that this process runs is a compiled one."""
    from services.engine.domain import exchange

    return not str(exchange.__file__).endswith(".py")
