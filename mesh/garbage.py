"""How often a process looks for garbage."""

from __future__ import annotations

import gc


def collect_rarely(new_objects: int = 50_000) -> None:
    """Leave what there is by now alone, and look through what comes every so many new objects.

    For work whose objects live long or end with it, without cycles: looking through them every 700,
    as the defaults would, costs up to half as much as making them.
    """
    gc.freeze()
    gc.set_threshold(new_objects, 20, 50)
