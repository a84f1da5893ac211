"""HTTP+JSON to gRPC by `google.api.http` annotations, with grpc-gateway's behaviour.

A component on its own: it knows descriptors, `google.rpc` errors and bytes; of Tidebook only the
map from gRPC codes to HTTP statuses in `mesh.status`. `build_routes` reads the annotations,
`Router` finds the route of a request, a `Route` turns path, query and body into the request
message and the answer into JSON.
"""

from gateway.transcode.errors import (
    TranscodeError,
    error_body,
    status_to_dict,
)
from gateway.transcode.headers import HeaderRules, parse_grpc_timeout
from gateway.transcode.routes import Route, build_routes
from gateway.transcode.routing import Match, Router
from gateway.transcode.template import Template, TemplateError, parse_template

__all__ = [
    "HeaderRules",
    "Match",
    "Route",
    "Router",
    "Template",
    "TemplateError",
    "TranscodeError",
    "build_routes",
    "error_body",
    "parse_grpc_timeout",
    "parse_template",
    "status_to_dict",
]
