"""The CFD half of PositionService: decode, submit, encode. The account is always the token's."""

from __future__ import annotations

from itertools import islice
from typing import Any

import grpc
from tidebook.engine.v1 import position_pb2

from kernel.reasons import Reason, Refused
from mesh.identity import require
from services.engine import codec
from services.engine.domain import events as e
from services.engine.encode_cfds import CfdEncoder
from services.engine.service import Engine

Context = grpc.aio.ServicerContext[Any, Any]
_DEFAULT_PAGE = 100


class CfdMethods:
    """What PositionService can do with CFDs, and the receipts of all liquidations."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cfds = CfdEncoder(engine.encoder.projection, engine.encoder.texts)

    async def OpenCfd(
        self, request: position_pb2.OpenCfdRequest, context: Context
    ) -> position_pb2.OpenCfdResponse:
        account_id = require("trade").account_id
        command = codec.open_cfd_command(request, self._engine.texts, account_id)
        return await self._engine.do("engine.open_cfd", command, self._cfds.opened)

    async def CloseCfd(
        self, request: position_pb2.CloseCfdRequest, context: Context
    ) -> position_pb2.CloseCfdResponse:
        command = codec.close_cfd_command(request, require("trade").account_id)
        return await self._engine.do("engine.close_cfd", command, self._cfds.closed)

    async def UpdateCfdTriggers(
        self, request: position_pb2.UpdateCfdTriggersRequest, context: Context
    ) -> position_pb2.UpdateCfdTriggersResponse:
        account_id = require("trade").account_id
        engine = self._engine
        # Nobody but the core knows its id before it is in the log, so the read model is enough.
        cfd = engine.projection.cfds.of(account_id, request.cfd_id)
        if cfd is None:
            raise Refused(Reason.CFD_NOT_FOUND, "no such open CFD of yours", field="cfd_id")
        text = engine.texts.by_id[cfd.opened.market_id]
        command = codec.cfd_triggers_command(request, text, account_id)
        name = "engine.update_cfd_triggers"
        return await engine.do(name, command, self._cfds.triggers_changed)

    async def ListCfds(
        self, request: position_pb2.ListCfdsRequest, context: Context
    ) -> position_pb2.ListCfdsResponse:
        account_id = require("read").account_id
        engine = self._engine
        cfds = engine.projection.cfds.open_of(account_id, engine.texts.id_of(request.market))
        return position_pb2.ListCfdsResponse(cfds=self._cfds.cfds(cfds))

    async def PreviewCfd(
        self, request: position_pb2.PreviewCfdRequest, context: Context
    ) -> position_pb2.PreviewCfdResponse:
        account_id = require("read").account_id
        engine = self._engine
        command = codec.open_cfd_command(request.cfd, engine.texts, account_id)
        now_ns = max(engine.clock.now_ns(), engine.projection.time_ns)
        try:
            opened = await engine.at_rest(lambda core: core.preview_cfd(command, now_ns))
        except Refused as refused:
            told = engine.encoder.refusal(
                command, [e.CommandRefused(int(refused.reason), refused.field)]
            )
            response = position_pb2.PreviewCfdResponse()
            codec.write_error(response.error, told or refused)
            return response
        return self._cfds.preview(opened)

    async def ListLiquidations(
        self, request: position_pb2.ListLiquidationsRequest, context: Context
    ) -> position_pb2.ListLiquidationsResponse:
        account_id = require("read").account_id
        before_id = _page(request.page_token)
        size = request.page_size or _DEFAULT_PAGE
        receipts = (
            receipt
            for receipt in self._engine.projection.cfds.receipts_of(account_id)
            if not before_id or receipt.liquidated.liquidation_id < before_id
        )
        # One more than asked for tells whether there is a next page.
        found = list(islice(receipts, size + 1))
        page = found[:size]
        return position_pb2.ListLiquidationsResponse(
            liquidations=[self._cfds.receipt(receipt) for receipt in page],
            next_page_token=(str(page[-1].liquidated.liquidation_id) if len(found) > size else ""),
        )


def _page(token: str) -> int:
    """The receipt that the page before ended with; 0 for the first page."""
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 19 and int(token)):
        raise Refused(Reason.INVALID_ARGUMENT, "is not a page token", field="page_token")
    return int(token)
