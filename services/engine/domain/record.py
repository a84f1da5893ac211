"""What commands and events share: equality and a readable form over their `__slots__`."""

from __future__ import annotations


def field_names(kind: type) -> tuple[str, ...]:
    """Names of the fields of a class with `__slots__`, those of its base classes first."""
    names: list[str] = []
    for parent in reversed(kind.__mro__):
        # A class compiled by mypyc has no `__slots__`, but a list of all its attributes.
        own = parent.__dict__.get("__slots__", parent.__dict__.get("__mypyc_attrs__", ()))
        names += [name for name in own if name not in names and not name.startswith("__")]
    return tuple(names)


class Record:
    """A plain record. Written once by whoever makes it, only read afterwards.

    Not a dataclass: a compiler should see ordinary attributes, and building one must stay cheap.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in field_names(type(self)))

    # Records are compared by content and can be changed while they are built.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in field_names(type(self)))
        return f"{type(self).__name__}({shown})"
