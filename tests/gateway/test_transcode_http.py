"""The HTTP around a transcoded call: error bodies, statuses, headers, `Grpc-Timeout`."""

from __future__ import annotations

import json

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway.transcode import HeaderRules, TranscodeError, error_body, parse_grpc_timeout
from mesh.status import http_status_of


def test_error_bodies_carry_details_with_their_types() -> None:
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE", domain="test"))
    status.details.add(type_url="type.googleapis.com/not.Linked", value=b"\x01")
    assert json.loads(error_body(status)) == {
        "code": 5,
        "message": "gone",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "GONE",
                "domain": "test",
            },
            {"@type": "type.googleapis.com/not.Linked", "value": "AQ=="},
        ],
    }


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("OK", 200),
        ("CANCELLED", 499),
        ("INVALID_ARGUMENT", 400),
        ("DEADLINE_EXCEEDED", 504),
        ("NOT_FOUND", 404),
        ("ALREADY_EXISTS", 409),
        ("PERMISSION_DENIED", 403),
        ("UNAUTHENTICATED", 401),
        ("RESOURCE_EXHAUSTED", 429),
        ("FAILED_PRECONDITION", 400),
        ("ABORTED", 409),
        ("OUT_OF_RANGE", 400),
        ("UNIMPLEMENTED", 501),
        ("INTERNAL", 500),
        ("UNAVAILABLE", 503),
        ("DATA_LOSS", 500),
    ],
)
def test_statuses_are_those_of_grpc_gateway(code: str, status: int) -> None:
    assert http_status_of(code_pb2.Code.Value(code)) == status


def test_unknown_codes_are_internal() -> None:
    assert http_status_of(99) == 500


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5S", 5), ("250m", 0.25), ("2M", 120), ("1H", 3600), ("10u", 1e-5), ("7n", 7e-9)],
)
def test_grpc_timeout_has_units(text: str, seconds: float) -> None:
    assert parse_grpc_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "S", "-5S", "5s", "1.5S", "123456789S"])
def test_a_bad_grpc_timeout_is_refused(text: str) -> None:
    with pytest.raises(TranscodeError):
        parse_grpc_timeout(text)


def test_headers_become_metadata_by_rule() -> None:
    rules = HeaderRules(reserved=frozenset({"authorization", "x-internal-"}))
    headers = [
        ("Grpc-Metadata-Note", "hi"),
        ("Grpc-Metadata-Data-Bin", "aGk="),
        ("Grpc-Metadata-Authorization", "stolen"),
        ("Grpc-Metadata-X-Internal-Account", "7"),
        ("User-Agent", "test"),
        ("Cookie", "secret"),
        ("Authorization", "secret"),
        ("X-Other", "stays"),
    ]
    assert rules.incoming(headers) == (
        ("note", "hi"),
        ("data-bin", b"hi"),
        ("grpcgateway-user-agent", "test"),
    )
    for name, value in (("Grpc-Metadata-A", "\x01"), ("Grpc-Metadata-B-Bin", "!")):
        with pytest.raises(TranscodeError):
            rules.incoming([(name, value)])


def test_metadata_becomes_headers_by_rule() -> None:
    metadata: list[tuple[str, str | bytes]] = [("x-shard", "0"), ("data-bin", b"hi")]
    assert HeaderRules(reserved=frozenset({"grpc-"})).outgoing(
        [*metadata, ("grpc-status", "0")], prefix="Grpc-Metadata-"
    ) == (("Grpc-Metadata-x-shard", "0"), ("Grpc-Metadata-data-bin", "aGk="))
