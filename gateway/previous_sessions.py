"""The session that a browser had before it signed in anew: it ends as by signing out."""

from __future__ import annotations

import grpc
import structlog
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc

from gateway.upstream import Metadata
from mesh.status import refused_from

_TIMEOUT_SECONDS = 2.0
log = structlog.get_logger()


class PreviousSessions:
    """Ends sessions by their refresh tokens."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(channel)

    async def end(self, refresh_token: str, metadata: Metadata) -> None:
        """End a session. One that has ended already, or an auth that does not answer, is logged and
        keeps nobody from the new session.
        """
        try:
            refreshed = await self._auth.RefreshToken(
                auth_pb2.RefreshTokenRequest(refresh_token=refresh_token),
                metadata=metadata,
                timeout=_TIMEOUT_SECONDS,
            )
            token = ("authorization", f"Bearer {refreshed.tokens.access_token}")
            await self._auth.SignOut(
                auth_pb2.SignOutRequest(), metadata=(*metadata, token), timeout=_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            log.info("previous_session_not_ended", reason=refused_from(error).reason.name)
