"""The OpenAPI document: complete, explained, and true to the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.services import ALL_SERVICES
from gateway.transcode import build_routes
from tests.support.operations import document, operations


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from parts(item)


def test_every_route_is_an_operation_with_a_name_of_its_own() -> None:
    routes = build_routes(ALL_SERVICES)
    assert len(operations()) == len(routes)
    ids = {operation.details["operationId"] for operation in operations()}
    assert len(ids) == len({route.rpc_path for route in routes})


def test_every_reference_leads_somewhere() -> None:
    references = {part["$ref"] for part in parts(document()) if "$ref" in part}
    assert len(references) > 100
    for reference in references:
        here: Any = document()
        for name in reference.removeprefix("#/").split("/"):
            here = here[name]
        assert here


def test_everything_is_explained() -> None:
    for operation in operations():
        assert operation.details["summary"] and operation.details["description"], str(operation)
        for parameter in operation.details["parameters"]:
            assert parameter["description"], (str(operation), parameter["name"])
    for name, schema in document()["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, own in schema.get("properties", {}).items():
            assert own.get("description") or name == "Error" or field == "@type", (name, field)


def test_every_answer_is_in_the_document() -> None:
    always = {"200", "400", "401", "403", "404", "409", "429", "431", "503", "504"}
    for operation in operations():
        with_body = {"408", "413"} if operation.body is not None else set()
        assert set(operation.details["responses"]) == always | with_body, str(operation)
    too_many = document()["components"]["responses"]["TooMany"]
    assert "Retry-After" in too_many["headers"]


def test_requests_have_their_bounds_and_no_other_fields() -> None:
    schemas = document()["components"]["schemas"]
    withdrawal = schemas["settlement.v1.CreateWithdrawalRequest"]
    assert withdrawal["additionalProperties"] is False
    assert withdrawal["properties"]["shard"]["maximum"] == 31
    assert withdrawal["properties"]["amount"]["pattern"]
    # What is only answered may grow.
    assert "additionalProperties" not in schemas["settlement.v1.CreateWithdrawalResponse"]
    place = schemas["engine.v1.PlaceOrderRequest"]
    assert "SIDE_UNSPECIFIED" not in place["properties"]["side"]["enum"]
