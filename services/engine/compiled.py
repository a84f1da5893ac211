"""The compiled core: one that `tools/build_core.py` made of this very source goes before it.

A build lives in a folder that is named after what it was made of, so one of older sources is never
found. The same source runs uncompiled as well, several times slower.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

# `Settings.engine_core_dir`, which is read too late: importing the engine imports its core.
VARIABLE = "TIDEBOOK_ENGINE_CORE_DIR"
ROOT = Path(__file__).resolve().parents[2]
DOMAIN = "services/engine/domain"
_SOURCES = ("kernel", DOMAIN)


def build_name() -> str:
    """Name of the build of these sources for this Python."""
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    for package in _SOURCES:
        for path in sorted((ROOT / package).glob("*.py")):
            source = path.read_bytes()
            digest.update(f"{path.name} {len(source)} ".encode() + source)
    return digest.hexdigest()[:24]


def use_if_told() -> None:
    """Take the core from the folder of builds that the environment names, if it is there.

    Only before anything of the core is imported.
    """
    folder = os.environ.get(VARIABLE)
    build = Path(folder or ".").resolve() / build_name() if folder else None
    if build is None or not build.is_dir():
        return
    from services.engine import domain

    domain.__path__.insert(0, str(build / DOMAIN))
    # What the compiled modules share is a module of its own.
    sys.path.append(str(build))


def is_compiled() -> bool:
    """Whether the core that this process runs is a compiled one."""
    from services.engine.domain import exchange

    return not str(exchange.__file__).endswith(".py")
