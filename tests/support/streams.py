"""How streams end."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from kernel.reasons import Reason
from mesh.status import refused_from


async def reason_of_end(call: Any) -> Reason:
    """Read a stream until it ends with an error; why it did."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
        raise AssertionError("it ended without an error")
    return refused_from(caught.value).reason
