"""The one kind of error that an operator sees as a line instead of a traceback."""

from __future__ import annotations


class OpsError(Exception):
    """Something an operator can mend; the message is one line that says what and how."""
