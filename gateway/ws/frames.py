"""Frames as bytes: proto3 JSON of `ClientFrame` and `ServerFrame`."""

from __future__ import annotations

import struct

from google.protobuf.message import Message
from tidebook.common.v1 import error_pb2
from tidebook.gateway.v1 import gateway_pb2

from gateway.transcode import TranscodeError, jsonpb
from kernel.reasons import Reason, Refused
from mesh.validation import InvalidRequest, MessageRules

_TEXT_FRAME = 0x81


class Frame:
    """A text frame as it goes over the wire, made once however many get it (RFC 6455, 5.2)."""

    __slots__ = ("payload", "wire")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        size = len(payload)
        if size < 126:
            header = struct.pack("!BB", _TEXT_FRAME, size)
        elif size < 1 << 16:
            header = struct.pack("!BBH", _TEXT_FRAME, 126, size)
        else:
            header = struct.pack("!BBQ", _TEXT_FRAME, 127, size)
        self.wire = header + payload

    def __len__(self) -> int:
        return len(self.wire)


class FrameReader:
    """Reads and checks client frames."""

    def __init__(self) -> None:
        self._rules = MessageRules()
        # The rules are compiled with the first message; do it before somebody waits for it.
        self._rules.warm([gateway_pb2.ClientFrame()])

    def read(self, text: str) -> gateway_pb2.ClientFrame:
        """A frame from its text; raises `BadFrame` with the frame's id when that can be read."""
        frame = gateway_pb2.ClientFrame()
        data = None
        try:
            data = jsonpb.load(text.encode())
            jsonpb.merge(data, frame)
        except TranscodeError as error:
            raise BadFrame(_id_of(data), error.message, error.field) from error
        try:
            self._rules.check(frame)
        except InvalidRequest as error:
            field, message = error.violations[0]
            raise BadFrame(frame.id, message, field) from error
        return frame


class BadFrame(Refused):
    """A frame that is not JSON, not a `ClientFrame`, or breaks its rules."""

    def __init__(self, frame_id: int, message: str, field: str) -> None:
        self.frame_id = frame_id
        super().__init__(Reason.INVALID_ARGUMENT, message, field=field)


def data_frame(payload: str, message: Message) -> Frame:
    """A frame of data; `payload` is the name of the oneof member. Written once for all readers."""
    return Frame(b'{"id":"0","%s":%s}' % (payload.encode(), jsonpb.dump(message)))


def answer_frame(frame: gateway_pb2.ServerFrame) -> Frame:
    """A frame that answers one of the client's."""
    return Frame(jsonpb.dump(frame))


def done_frame(frame_id: int) -> Frame:
    """`Done` for a client's frame."""
    return Frame(b'{"id":"%d","done":{}}' % frame_id)


def error_frame(frame_id: int, refused: Refused) -> Frame:
    """The refusal of a client's frame."""
    frame = gateway_pb2.ServerFrame(id=frame_id)
    frame.error.CopyFrom(error_of(refused))
    return Frame(jsonpb.dump(frame))


def error_of(refused: Refused) -> error_pb2.Error:
    """A refusal as a message."""
    error = error_pb2.Error(message=refused.message, field=refused.field, details=refused.details)
    error.reason = refused.reason.value  # type: ignore[assignment]
    return error


def _id_of(data: object) -> int:
    """The id in JSON that is otherwise no good, so that the client knows which frame it was."""
    given = data.get("id", 0) if isinstance(data, dict) else 0
    try:
        number = int(given)
    except (TypeError, ValueError):
        return 0
    return number if 0 <= number < 1 << 64 else 0
