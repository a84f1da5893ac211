"""Objects for tests, made with keyword defaults so that a test names only what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mesh.config import Settings


def make_settings(data_dir: Path, **changed: Any) -> Settings:
    """Settings for a service under test: development mode, cheap hashes, no bots, no network."""
    defaults: dict[str, Any] = {
        "data_dir": data_dir,
        "mode": "dev",
        "bots": False,
        "feed": "synthetic:7",
        "bcrypt_cost": 4,
        "drain_seconds": 2.0,
    }
    return Settings(**(defaults | changed))
