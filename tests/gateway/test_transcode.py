"""The transcoder, rule by rule, on a contract of its own."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import grpc_tools
import pytest
from google.api import annotations_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc

from gateway.transcode import (
    Router,
    TemplateError,
    TranscodeError,
    build_routes,
    parse_template,
)

PROTO = Path(__file__).with_name("library.proto")
# What it imports must be in the pool before it.
IMPORTED = (any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)


@cache
def service() -> ServiceDescriptor:
    """The test contract, compiled now."""
    includes = [
        PROTO.parent,
        resources.files(grpc_tools) / "_proto",
        Path(annotations_pb2.__file__).parents[2],
    ]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "image.binpb"
        arguments = ["protoc", *(f"-I{path}" for path in includes)]
        assert protoc.main([*arguments, f"--descriptor_set_out={target}", PROTO.name]) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    pool = descriptor_pool.Default()
    assert all(pool.FindFileByName(module.DESCRIPTOR.name) for module in IMPORTED)
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    found: ServiceDescriptor = pool.FindServiceByName("transcodetest.v1.LibraryService")
    return found


@cache
def router() -> Router:
    return Router(build_routes([service()]))


def decoded(method: str, target: str, body: Any = None) -> dict[str, Any]:
    """The request message that a request becomes, as data with the original names."""
    path, _, query = target.partition("?")
    match = router().match(method, path)
    content = b"" if body is None else json.dumps(body).encode()
    message = match.route.decode(match.captured, query, content)
    data: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return data


def refused(method: str, target: str, body: Any = None) -> TranscodeError:
    with pytest.raises(TranscodeError) as caught:
        decoded(method, target, body)
    return caught.value


@pytest.mark.parametrize(
    ("template", "segments", "verb"),
    [
        ("/v1/books", ("v1", "books"), ""),
        ("/v1/{id}", ("v1", "*"), ""),
        ("/v1/{name=shelves/*/books/**}:read", ("v1", "shelves", "*", "books", "**"), "read"),
        ("/v1/*/x:verb", ("v1", "*", "x"), "verb"),
        ("/v1/{a.b}/{c=x/*}", ("v1", "*", "x", "*"), ""),
    ],
)
def test_templates_are_read(template: str, segments: tuple[str, ...], verb: str) -> None:
    parsed = parse_template(template)
    assert (parsed.segments, parsed.verb) == (segments, verb)


@pytest.mark.parametrize(
    "template",
    [
        "v1/books",
        "/v1/{id",
        "/v1/id}",
        "/v1/{a=b/{c}}",
        "/v1/{1x}",
        "/v1/**/x",
        "/v1//x",
        "/v1/{id}/{id}",
        "/v1/x:",
        "/v1/{a=**/b}",
    ],
)
def test_bad_templates_are_refused_at_start(template: str) -> None:
    with pytest.raises(TemplateError):
        parse_template(template)


@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("GET", "/v1/books/7", "GetBook"),
        ("GET", "/v1/books/latest", "Literal"),
        ("POST", "/v1/books", "Create"),
        ("POST", "/v1/books/7:archive", "Archive"),
        ("GET", "/v1/shelves/a/books/b/c", "GetBook"),
        ("GET", "/v1/shelves/a/books", "GetBook"),
        ("REPORT", "/v1/files/any/thing", "Custom"),
    ],
)
def test_a_path_finds_its_method(method: str, path: str, rpc: str) -> None:
    assert router().match(method, path).route.descriptor.name == rpc


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1", 404, None),
        ("GET", "/v1/book", 404, None),
        ("GET", "/v1/books/", 404, None),
        ("POST", "/v1/books/7:burn", 405, "GET, PATCH"),
        ("DELETE", "/v1/books/7", 405, "GET, PATCH"),
        ("GET", "/v1/books", 405, "POST"),
        ("GET", "/v1/Unmapped", 404, None),
        ("GET", "/v1/" + "a/" * 1000, 404, None),
    ],
)
def test_what_fits_nothing_is_404_or_405(
    method: str, path: str, status: int, allow: str | None
) -> None:
    with pytest.raises(TranscodeError) as caught:
        router().match(method, path)
    assert caught.value.http_status == status
    assert dict(caught.value.headers).get("Allow") == allow


def test_two_methods_for_one_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="is taken by both"):
        Router([*router().routes, router().routes[0]])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/v1/books/7", {"id": "7"}),
        ("/v1/shelves/a/books/b/c", {"name": "shelves/a/books/b/c"}),
        ("/v1/shelves/a%20b/books/c%2Fd", {"name": "shelves/a b/books/c%2Fd"}),
        ("/v1/nested/a%2Fb/5", {"inner": {"text": "a/b", "inner": {"number": 5}}}),
        ("/v1/nested/%C3%A4/-5", {"inner": {"text": "ä", "inner": {"number": -5}}}),
    ],
)
def test_paths_fill_fields(target: str, message: dict[str, Any]) -> None:
    assert decoded("GET", target) == message


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("text=a+b%26c", {"text": "a b&c"}),
        ("text=", {}),
        ("number=-5", {"number": -5}),
        ("texts=a&texts=b", {"texts": ["a", "b"]}),
        ("numbers=1&numbers=-2", {"numbers": ["1", "-2"]}),
        ("colour=COLOUR_RED", {"colour": "COLOUR_RED"}),
        ("colour=2", {"colour": "COLOUR_BLUE"}),
        ("colours=1&colours=COLOUR_BLUE", {"colours": ["COLOUR_RED", "COLOUR_BLUE"]}),
        ("flag=true", {"flag": True}),
        ("flag=1&perhaps=F", {"flag": True, "perhaps": False}),
        ("data=aGk", {"data": "aGk="}),
        ("data=_-8=", {"data": "/+8="}),
        ("ratio=1.5e3", {"ratio": 1500.0}),
        ("time=2026-01-31T12:00:00.5Z", {"time": "2026-01-31T12:00:00.500Z"}),
        ("wait=1.5s", {"wait": "1.500s"}),
        ("mask=text,inner.number", {"mask": "text,inner.number"}),
        ("maybe_text=", {"maybe_text": ""}),
        ("maybeNumber=5", {"maybe_number": "5"}),
        ("inner.inner.text=x", {"inner": {"inner": {"text": "x"}}}),
        ("counts[a]=1&counts[b]=2", {"counts": {"a": 1, "b": 2}}),
        ("otherName=x", {"renamed": "x"}),
        ("renamed=x", {"renamed": "x"}),
        ("signed_number=-9223372036854775808", {"signed_number": "-9223372036854775808"}),
        ("this_one=x", {"this_one": "x"}),
    ],
)
def test_queries_fill_fields(query: str, message: dict[str, Any]) -> None:
    assert decoded("GET", f"/v1/names?{query}") == message


def test_what_the_path_has_the_query_cannot_change() -> None:
    assert decoded("GET", "/v1/books/7?id=8&text=x") == {"id": "7", "text": "x"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nothing=1", "nothing"),
        ("inner.nothing=1", "inner.nothing"),
        ("text.more=1", "text.more"),
        ("children.text=1", "children.text"),
        ("inner=1", "inner"),
        ("children=1", "children"),
        ("number=1&number=2", "number"),
        ("number=x", "number"),
        ("number=2147483648", "number"),
        ("number=1.0", "number"),
        ("number=0x10", "number"),
        ("numbers=1_000", "numbers"),
        ("numbers=" + "9" * 50, "numbers"),
        ("signed_number=9223372036854775808", "signed_number"),
        ("id=-1", "id"),
        ("flag=yes", "flag"),
        ("colour=RED", "colour"),
        ("colour=99999999999", "colour"),
        ("ratio=abc", "ratio"),
        ("data=!!", "data"),
        ("time=yesterday", "time"),
        ("time=9999999-01-01T00:00:00Z", "time"),
        ("wait=5", "wait"),
        ("counts=1", "counts"),
        ("counts[a]=x", "counts[a]"),
        ("text[a]=x", "text[a]"),
        ("this_one=x&that_one=1", "that_one"),
    ],
)
def test_bad_queries_name_the_field(query: str, field: str) -> None:
    error = refused("GET", f"/v1/names?{query}")
    assert (error.http_status, error.reason, error.field) == (400, "INVALID_ARGUMENT", field)


@pytest.mark.parametrize(
    "target", ["/v1/names?text=%ff", "/v1/books/%ff", "/v1/names?" + "&a" * 2000]
)
def test_what_is_not_text_is_refused(target: str) -> None:
    assert refused("GET", target).http_status == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"maybeText": "x", "maybe_number": 5}, {"maybe_text": "x", "maybe_number": "5"}),
        ({"id": "18446744073709551615"}, {"id": "18446744073709551615"}),
        ({"id": 5, "numbers": ["1", 2]}, {"id": "5", "numbers": ["1", "2"]}),
        (
            {"colour": "COLOUR_RED", "colours": [2]},
            {"colour": "COLOUR_RED", "colours": ["COLOUR_BLUE"]},
        ),
        (
            {"text": None, "inner": {"children": [{"text": "x"}]}},
            {"inner": {"children": [{"text": "x"}]}},
        ),
        ({"counts": {"a": 1}}, {"counts": {"a": 1}}),
        ({"time": "2026-01-31T12:00:00+01:00"}, {"time": "2026-01-31T11:00:00Z"}),
        ({"number": 5.0}, {"number": 5}),
        ({"number": "5", "id": "7"}, {"number": 5, "id": "7"}),
        ({"number": 1e3}, {"number": 1000}),
        ({"ratio": "NaN", "smallRatio": "-Infinity"}, {"ratio": "NaN", "small_ratio": "-Infinity"}),
        ({"ratio": "1.5", "maybeRatio": 2}, {"ratio": 1.5, "maybe_ratio": 2.0}),
        ({"data": "/+8=", "maybeData": "_-8"}, {"data": "/+8=", "maybe_data": "/+8="}),
        ({"maybeFlag": False, "perhaps": False}, {"maybe_flag": False, "perhaps": False}),
        ({"wait": "-1.5s"}, {"wait": "-1.500s"}),
        ({"time": "1969-12-31T23:59:59.999999999Z"}, {"time": "1969-12-31T23:59:59.999999999Z"}),
        ({"mask": "maybeText,inner.maybeNumber"}, {"mask": "maybeText,inner.maybeNumber"}),
        (
            {"facts": {"a": [1, "b", None, {"c": True}]}, "anything": [1.5], "list": ["x", None]},
            {
                "facts": {"a": [1.0, "b", None, {"c": True}]},
                "anything": [1.5],
                "list": ["x", None],
            },
        ),
        ({"anything": None}, {"anything": None}),
        (
            {"packed": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}},
            {"packed": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}},
        ),
        (
            {"packed": {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X"}},
            {"packed": {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X"}},
        ),
        ({"named": {"a": {"maybeText": "x"}}}, {"named": {"a": {"maybe_text": "x"}}}),
        ({"thisOne": None, "thatOne": 5}, {"that_one": 5}),
        ({"inner": None, "children": [], "numbers": None}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_bodies_fill_messages(body: Any, message: dict[str, Any]) -> None:
    assert decoded("POST", "/v1/books", body) == message


def test_the_path_wins_over_the_body_and_a_whole_body_over_the_query() -> None:
    body = {"id": 8, "text": "body"}
    assert decoded("POST", "/v1/books/7:archive?text=query", body) == {"id": "7", "text": "body"}


def test_a_body_field_leaves_the_rest_to_the_query() -> None:
    message = decoded("PATCH", "/v1/books/7?text=x&inner.text=no", {"text": "y"})
    assert message == {"id": "7", "text": "x", "inner": {"text": "y"}}
    assert decoded("PUT", "/v1/tags", ["a", "b"]) == {"texts": ["a", "b"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"nothing": 1}, "nothing"),
        ({"inner": {"inner": {"nothing": 1}}}, "inner.inner.nothing"),
        ({"children": [{}, {"number": "x"}]}, "children[1].number"),
        ({"number": 1.5}, "number"),
        ({"number": 1e30}, "number"),
        ({"number": True}, "number"),
        ({"text": 5}, "text"),
        ({"text": ["a"]}, "text"),
        ({"texts": "a"}, "texts"),
        ({"texts": [1]}, "texts"),
        ({"flag": "true"}, "flag"),
        ({"colour": "RED"}, "colour"),
        ({"colour": (1 << 32) + 1}, "colour"),
        ({"inner": {"colour": str((1 << 32) + 1)}}, "inner.colour"),
        ({"children": [{"colour": 1.5}]}, "children[0].colour"),
        ({"colour": True}, "colour"),
        ({"inner": 5}, "inner"),
        ({"inner": [5]}, "inner"),
        ({"children": [None]}, "children[0]"),
        ({"time": 5}, "time"),
        ({"wait": "soon"}, "wait"),
        ({"counts": {"a": "x"}}, "counts"),
        ({"counts": {"a": None}}, "counts"),
        ({"data": "!!"}, "data"),
        ({"maybeNumber": "x"}, "maybeNumber"),
        ({"mask": ["a"]}, "mask"),
        ({"facts": [1]}, "facts"),
        ({"list": {}}, "list"),
        ({"packed": {"@type": "type.googleapis.com/no.Such"}}, "packed"),
        ({"packed": {"reason": "X"}}, "packed"),
        ({"named": {"a": {"nothing": 1}}}, "named[a].nothing"),
        ({"named": {"a": {"colour": (1 << 32) + 1}}}, "named[a].colour"),
        ({"named": []}, "named"),
        ({"maybeData": "a*b"}, "maybeData"),
        ({"numbers": [None]}, "numbers"),
        ({"smallRatio": 1e39}, "smallRatio"),
        ({"id": "18446744073709551616"}, "id"),
        ({"id": -1}, "id"),
        ({"number": "0x10"}, "number"),
        ({"number": " 5"}, "number"),
        ({"flag": 1}, "flag"),
        ({"thisOne": "x", "thatOne": 1}, "thatOne"),
        ({"maybeText": "x", "maybe_text": "y"}, "maybe_text"),
        ({"inner": {"otherName": "x", "renamed": None}}, "inner.renamed"),
        ([1], ""),
        ("text", ""),
    ],
)
def test_bad_bodies_name_the_field(body: Any, field: str) -> None:
    error = refused("POST", "/v1/books", body)
    assert (error.http_status, error.field) == (400, field)
    assert "transcodetest" not in error.message, "nobody wants to read type names"


@pytest.mark.parametrize(
    "body",
    [b"{", b"nonsense", b'{"text": "\xff"}', b'{"number": 1e999}', b"[" * 5000, b'{"a":1} {"b":2}'],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    match = router().match("POST", "/v1/books")
    with pytest.raises(TranscodeError) as caught:
        match.route.decode(match.captured, "", body)
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"text": "a", "text": "b"}', "text"),
        (b'{"text": "a", "te\\u0078t": "b"}', "text"),
        (b'{"inner": {"number": 1, "flag": true, "number": 2}}', "number"),
        (b'{"counts": {"a": 1, "a": 2}}', "a"),
        (b'{"text": null, "text": "x:y"}', "text"),
    ],
)
def test_a_name_given_twice_is_refused(body: bytes, field: str) -> None:
    match = router().match("POST", "/v1/books")
    with pytest.raises(TranscodeError) as caught:
        match.route.decode(match.captured, "", body)
    assert (caught.value.http_status, caught.value.field) == (400, field)
    assert "more than once" in caught.value.message


def test_a_message_too_deep_is_refused() -> None:
    body: dict[str, Any] = {}
    for _ in range(300):
        body = {"inner": body}
    assert refused("POST", "/v1/books", body).http_status == 400


def test_answers_are_camel_case_with_defaults_and_big_numbers_as_strings() -> None:
    match = router().match("POST", "/v1/books")
    message = match.route.response_type(id=2**63, maybe_text={"value": "x"})
    data = json.loads(match.route.encode(message))
    assert data["id"] == "9223372036854775808"
    assert data["maybeText"] == "x"
    assert data["otherName"] == ""
    assert data["colour"] == "COLOUR_UNSPECIFIED"
    assert data["numbers"] == []
    assert "inner" not in data
    assert "perhaps" not in data, "not set is not the default"


def test_response_body_picks_a_field() -> None:
    update = router().match("PATCH", "/v1/books/7").route
    answer = update.response_type(inner={"text": "x"})
    assert json.loads(update.encode(answer))["text"] == "x"
    assert json.loads(update.encode(update.response_type())) is None
    names = router().match("GET", "/v1/names").route
    assert json.loads(names.encode(names.response_type(texts=["a"]))) == ["a"]
