"""Routes from the `google.api.http` options of service descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.transcode import fields, jsonpb
from gateway.transcode.errors import TranscodeError
from gateway.transcode.template import Template, TemplateError, parse_template
from gateway.transcode.writing import to_dict

MAX_QUERY_PARAMETERS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One HTTP method and path template of one RPC.

    `service` is the full name of its gRPC service, `rpc_path` is `/package.Service/Method`, and
    `name` what logs and metrics call the route: `POST /v1/orders`.
    """

    name: str
    service: str
    rpc_path: str
    descriptor: MethodDescriptor
    http_method: str
    template: Template
    # "" for no body, "*" for the whole message, else the field that is the body.
    body: str
    response_body: FieldDescriptor | None
    variables: dict[tuple[str, ...], fields.FieldPath]
    request_type: type[Message]
    response_type: type[Message]

    @property
    def server_streaming(self) -> bool:
        return bool(self.descriptor.server_streaming)

    def decode(
        self, captured: list[tuple[tuple[str, ...], str]], query: str, body: bytes
    ) -> Message:
        """The request message; raises `TranscodeError` (400) naming the field at fault.

        The path wins over the body. With body `*` the query is ignored; otherwise it sets every
        field that neither path nor body has.
        """
        message = self.request_type()
        if self.body and body:
            data = jsonpb.load(body)
            if self.body == "*":
                jsonpb.merge(data, message)
            else:
                field = cast(FieldDescriptor, message.DESCRIPTOR.fields_by_name[self.body])
                jsonpb.merge_field(data, message, field)
        if query and self.body != "*":
            self._bind_query(message, query)
        for names, text in captured:
            path = self.variables[names]
            _clear(message, path)
            fields.set_text(message, path, (text,), ".".join(names))
        return message

    @property
    def is_csv(self) -> bool:
        """Whether it streams the pieces of a CSV file: messages of one text, called `csv`."""
        answer = [(f.name, f.type) for f in self.descriptor.output_type.fields]
        return self.server_streaming and answer == [("csv", FieldDescriptor.TYPE_STRING)]

    def encode(self, message: Message) -> bytes:
        """The JSON of an answer, or of its `response_body` field."""
        return orjson.dumps(self.encode_data(message))

    def encode_data(self, message: Message) -> Any:
        """The answer as JSON data."""
        data = to_dict(message)
        if self.response_body is None:
            return data
        # A message field that is not set has no entry.
        return data.get(self.response_body.json_name)

    def _bind_query(self, message: Message, query: str) -> None:
        try:
            pairs = parse_qsl(
                query,
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_QUERY_PARAMETERS,
            )
        except ValueError as error:
            raise TranscodeError.invalid("the query is not UTF-8, or too long") from error
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        for name, given in values.items():
            # Already bound by path or body: grpc-gateway lets those win in silence.
            if name.split(".")[0] == self.body or tuple(name.split(".")) in self.variables:
                continue
            fields.set_query(message, name, given)


def build_routes(services: Iterable[ServiceDescriptor]) -> list[Route]:
    """All routes of the methods of `services` that have an annotation.

    Raises `TemplateError` for bad templates, `ValueError` for annotations that do not fit their
    messages (a developer's mistake, found at start).
    """
    return [
        route
        for service in services
        for method in service.methods
        for rule in _rules(method)
        for route in [_route(method, rule)]
    ]


def _rules(method: MethodDescriptor) -> Iterator[http_pb2.HttpRule]:
    options = method.GetOptions()
    if options.HasExtension(annotations_pb2.http):
        rule = options.Extensions[annotations_pb2.http]
        yield rule
        yield from rule.additional_bindings


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Route:
    where = method.full_name
    if method.client_streaming:
        raise ValueError(f"{where}: a stream of requests has no HTTP form")
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise ValueError(f"{where}: the rule has no path")
    if kind == "custom":
        http_method, text = rule.custom.kind.upper(), rule.custom.path
    else:
        http_method, text = kind.upper(), getattr(rule, kind)
    template = parse_template(text)
    request = method.input_type
    variables = {}
    for variable in template.variables:
        try:
            path = fields.resolve(request, variable.field_path)
        except KeyError as error:
            raise TemplateError(f"{where}: {request.full_name} has no field {error}") from error
        if path[-1].is_repeated or not fields.is_bindable(path[-1]):
            raise TemplateError(f"{where}: {path[-1].name} cannot be in a path")
        variables[variable.field_path] = path
    if rule.body not in ("", "*") and rule.body not in request.fields_by_name:
        raise ValueError(f"{where}: {request.full_name} has no field {rule.body}")
    response_body = None
    if rule.response_body:
        response_body = method.output_type.fields_by_name.get(rule.response_body)
        if response_body is None:
            raise ValueError(f"{where}: {method.output_type.full_name} has no such response_body")
    service = str(method.containing_service.full_name)
    return Route(
        name=f"{http_method} {text}",
        service=service,
        rpc_path=f"/{service}/{method.name}",
        descriptor=method,
        http_method=http_method,
        template=template,
        body=rule.body,
        response_body=response_body,
        variables=variables,
        request_type=GetMessageClass(request),
        response_type=GetMessageClass(method.output_type),
    )


def _clear(message: Message, path: fields.FieldPath) -> None:
    """Forget what the body said about a field of the path, its oneof included."""
    *parents, field = path
    for parent in parents:
        message = getattr(message, parent.name)
    message.ClearField(
        field.containing_oneof.name if field.containing_oneof is not None else field.name
    )
