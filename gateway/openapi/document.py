"""The OpenAPI 3.1 document: every route with its parameters, bodies, answers and comments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import metadata, resources
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor

from gateway.openapi import responses
from gateway.openapi.schemas import Schema, Schemas, is_required, reachable
from gateway.transcode import Route
from gateway.transcode.fields import is_bindable
from gateway.transcode.template import Template

_JSON = "application/json"
# How deep query parameters reach into messages.
_QUERY_DEPTH = 4


def load_comments() -> dict[str, str]:
    """Full name -> comment, as `tools/gen.py` wrote them beside the generated code."""
    text = resources.files("tidebook").joinpath("comments.json").read_text()
    comments: dict[str, str] = json.loads(text)
    return comments


def build_document(
    routes: Iterable[Route],
    services: Iterable[ServiceDescriptor],
    comments: dict[str, str],
    *,
    is_public: Callable[[str], bool],
) -> dict[str, Any]:
    """The document; `is_public` says of an rpc path whether it needs no token."""
    routes = list(routes)
    schemas = Schemas(comments, closed=reachable(r.descriptor.input_type for r in routes if r.body))
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: route.template.text):
        item = paths.setdefault(_path(route.template), {})
        item[route.http_method.lower()] = _operation(route, schemas, is_public(route.rpc_path))
    schemas.components["Error"] = {
        "type": "object",
        "description": "A refusal, as google.rpc.Status. `details` has a google.rpc.ErrorInfo with"
        " the stable `reason`.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "google.rpc.Code."},
            "message": {"type": "string", "description": "For people."},
            "details": {
                "type": "array",
                "items": {"type": "object", "properties": {"@type": {"type": "string"}}},
            },
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidebook",
            "version": metadata.version("tidebook"),
            "description": "A crypto exchange. Prices, quantities and amounts are decimal strings,"
            " 64-bit integers are strings; in requests they may be numbers, and so may enums, and"
            " null is as if the field were not there. Made from the gRPC contracts, which the"
            " gateway's gRPC door serves under the same names.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": service.name, "description": schemas.comment(service.full_name)}
            for service in services
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": responses.components(),
            "headers": responses.HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "tidebook_access",
                    "description": "Set by signing in with the header `X-Tidebook-Session:"
                    " cookie`; over https its name begins with `__Host-`. Calls that change"
                    " something need `X-CSRF-Token` too.",
                },
            },
        },
    }


def _operation(route: Route, schemas: Schemas, public: bool) -> Schema:
    method = route.descriptor
    text = schemas.comment(method.full_name)
    operation: Schema = {
        "operationId": f"{method.containing_service.name}_{method.name}",
        "summary": text.partition(". ")[0].rstrip("."),
        "description": text,
        "tags": [method.containing_service.name],
        "parameters": [
            *(_path_parameter(names, path[-1], schemas) for names, path in route.variables.items()),
            *_query_parameters(route, schemas),
        ],
        "responses": {
            "200": {
                "description": schemas.comment(method.output_type.full_name) or "Done.",
                "headers": responses.success_headers(),
                "content": _content(route, schemas),
            },
            **responses.refusals(has_body=bool(route.body)),
        },
        "security": [] if public else [{"bearer": []}, {"session": []}],
    }
    body = _body(route, schemas)
    if body is not None:
        operation["requestBody"] = {"content": {_JSON: {"schema": body}}}
    return operation


def _path(template: Template) -> str:
    """The template with every variable as `{name}`."""
    parts: list[str] = []
    at = 0
    for variable in template.variables:
        parts += [
            *template.segments[at : variable.start],
            "{" + ".".join(variable.field_path) + "}",
        ]
        at = len(template.segments) if variable.end is None else variable.end
    parts += template.segments[at:]
    return "/" + "/".join(parts) + (f":{template.verb}" if template.verb else "")


def _path_parameter(names: tuple[str, ...], field: FieldDescriptor, schemas: Schemas) -> Schema:
    schema = schemas.field(field)
    return {
        "name": ".".join(names),
        "in": "path",
        "required": True,
        "description": schema.pop("description", ""),
        "schema": schema,
    }


def _query_parameters(route: Route, schemas: Schemas) -> list[Schema]:
    if route.body == "*":
        return []
    taken = {names[0] for names in route.variables} | {route.body}
    return [
        _query_parameter(name, field, schemas)
        for name, field in _leaves(route.descriptor.input_type, "", _QUERY_DEPTH)
        if name.split(".")[0] not in taken
    ]


def _leaves(
    descriptor: Descriptor, prefix: str, depth: int
) -> Iterable[tuple[str, FieldDescriptor]]:
    for field in descriptor.fields:
        name = f"{prefix}{field.name}"
        if is_bindable(field):
            yield name, field
        elif depth and field.message_type is not None and not field.is_repeated:
            yield from _leaves(field.message_type, f"{name}.", depth - 1)


def _query_parameter(name: str, field: FieldDescriptor, schemas: Schemas) -> Schema:
    schema = schemas.field(field)
    return {
        "name": name,
        "in": "query",
        "required": is_required(field) and "." not in name,
        "description": schema.pop("description", ""),
        "schema": schema,
    }


def _body(route: Route, schemas: Schemas) -> Schema | None:
    descriptor = route.descriptor.input_type
    if not route.body:
        return None
    if route.body != "*":
        return schemas.field(descriptor.fields_by_name[route.body])
    if not route.variables:
        return schemas.message(descriptor)
    return schemas.object(descriptor, without=frozenset(names[0] for names in route.variables))


def _content(route: Route, schemas: Schemas) -> Schema:
    content = {_JSON: {"schema": _answer(route, schemas)}}
    if route.is_csv:
        content["text/csv"] = {"schema": {"type": "string"}}
    return content


def _answer(route: Route, schemas: Schemas) -> Schema:
    if route.response_body is not None:
        schema = schemas.field(route.response_body)
    else:
        schema = schemas.message(route.descriptor.output_type)
    if not route.server_streaming:
        return schema
    return {
        "type": "object",
        "description": "One JSON object a line; a last one with `error` when the stream breaks.",
        "properties": {"result": schema, "error": responses.ERROR},
    }
