"""What commands and events share: equality and a readable form over their `__slots__`."""

from __future__ import annotations


def field_names(kind: type[Record]) -> tuple[str, ...]:
    """Names of the fields of a record class, those of its base classes first."""
    return tuple(
        name for parent in reversed(kind.__mro__) for name in parent.__dict__.get("__slots__", ())
    )


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
