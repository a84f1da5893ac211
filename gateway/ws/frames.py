"""Frames as bytes: proto3 JSON of `ClientFrame` and `ServerFrame`."""

from __future__ import annotations

from google.protobuf.message import Message
from tidebook.common.v1 import error_pb2
from tidebook.gateway.v1 import gateway_pb2

from gateway.transcode import TranscodeError, jsonpb
from kernel.reasons import Reason, Refused
from mesh.validation import InvalidRequest, MessageRules

_PREFIX = "REASON_"


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


def data_frame(payload: str, message: Message) -> bytes:
    """A frame of data; `payload` is the name of the oneof member. Written once for all readers."""
    return b'{"id":"0","%s":%s}' % (payload.encode(), jsonpb.dump(message))


def answer_frame(frame: gateway_pb2.ServerFrame) -> bytes:
    """A frame that answers one of the client's."""
    return jsonpb.dump(frame)


def done_frame(frame_id: int) -> bytes:
    """`Done` for a client's frame."""
    return b'{"id":"%d","done":{}}' % frame_id


def error_frame(frame_id: int, refused: Refused) -> bytes:
    """The refusal of a client's frame."""
    frame = gateway_pb2.ServerFrame(id=frame_id)
    frame.error.CopyFrom(error_of(refused))
    return jsonpb.dump(frame)


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
