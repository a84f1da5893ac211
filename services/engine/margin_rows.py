"""The read model of margin positions as JSON, in the header of a snapshot."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from services.engine.domain import position_events as pe
from services.engine.domain.record import field_names
from services.engine.margin_model import MarginModel, PositionState

_COLUMNS: Final = tuple(sorted(field_names(PositionState)))
_values: Final = attrgetter(*_COLUMNS)


def dump(model: MarginModel) -> dict[str, Any]:
    """Open positions, and leverages chosen."""
    return {
        "columns": _COLUMNS,
        "positions": [_values(position) for position in model.positions()],
        "leverages": model.leverages(),
    }


def load(dumped: dict[str, Any], model: MarginModel) -> None:
    """Fill an empty model with what `dump` gave. Raises `ValueError` for another version's."""
    if tuple(dumped["columns"]) != _COLUMNS:
        raise ValueError("the margin positions were written by another version of this program")
    for row in dumped["positions"]:
        position = PositionState(0, 0, 0)
        for name, value in zip(_COLUMNS, row, strict=True):
            setattr(position, name, value)
        model.add(position)
    for row in dumped["leverages"]:
        model.leverage_changed(pe.LeverageChanged(*row))
