"""Every operation of the OpenAPI document, for tests that must leave none out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from gateway.openapi.document import build_document, load_comments
from gateway.services import ALL_SERVICES
from gateway.transcode import Router, build_routes
from mesh.interceptors import is_public

Schema = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One method and path of the document."""

    method: str
    path: str
    details: Schema

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_private(self) -> bool:
        return bool(self.details["security"])

    def parameters(self, place: str) -> list[Schema]:
        return [p for p in self.details["parameters"] if p["in"] == place]

    def url(self, **given: str) -> str:
        """The path with values that can be read, but for those `given`."""
        path = self.path
        for parameter in self.parameters("path"):
            name = parameter["name"]
            value = given.get(name, "1")
            path = path.replace("{" + name + "}", quote(value, safe=""))
        return path

    @property
    def body(self) -> Schema | None:
        """The schema of the body, resolved."""
        if "requestBody" not in self.details:
            return None
        return resolved(self.details["requestBody"]["content"]["application/json"]["schema"])


@cache
def document() -> Schema:
    routes = Router(build_routes(ALL_SERVICES)).routes
    return build_document(routes, ALL_SERVICES, load_comments(), is_public=is_public)


@cache
def operations() -> tuple[Operation, ...]:
    return tuple(
        Operation(method.upper(), path, details)
        for path, item in document()["paths"].items()
        for method, details in item.items()
    )


def resolved(schema: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
