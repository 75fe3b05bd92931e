"""The page of the messages and services between coordinator and nodes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from docs.writers.markdown import code, escape, page, table
from fedstill.protos.generate import FOLDER, PROTOS, ROOT

# Numbers of the fields of descriptor.proto, by which comments are found.
_MESSAGES, _SERVICES, _ENUMS, _NESTED, _NESTED_ENUMS, _FIELDS, _METHODS, _PACKAGE = 4, 6, 5, 3, 4, 2, 2, 2
_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_Comments = dict[tuple[int, ...], str]


def write_protos() -> str:
    """Writes every service and message with its comments."""
    lines = [
        "Package `fedstill.v1`, in `protos/fedstill/v1/`; `buf lint` checks the files. Field numbers stand",
        "in the first column.",
    ]
    for file in _read_descriptors():
        comments = {
            tuple(place.path): place.leading_comments.strip()
            for place in file.source_code_info.location
            if place.leading_comments
        }
        lines += ["", f"## {Path(file.name).name}", "", escape(comments.get((_PACKAGE,), ""))]
        for index, service in enumerate(file.service):
            lines += ["", *_describe_service(service, (_SERVICES, index), comments)]
        for index, message in enumerate(file.message_type):
            lines += ["", *_describe_message(message, message.name, (_MESSAGES, index), comments)]
        for index, enum in enumerate(file.enum_type):
            lines += ["", *_describe_enum(enum, enum.name, (_ENUMS, index), comments)]
    return page("Messages", "protos/fedstill/v1/", *lines)


def _read_descriptors() -> list[descriptor_pb2.FileDescriptorProto]:
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "all.pb"
        arguments = ["protoc", f"--proto_path={ROOT}", f"--proto_path={well_known}", "--include_source_info"]
        arguments += [f"--descriptor_set_out={output}", *(str(path.relative_to(ROOT)) for path in PROTOS)]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"protoc failed: {' '.join(arguments)}")
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file
    return [file for file in files if file.name.startswith(FOLDER.as_posix())]


def _describe_service(service: Any, path: tuple[int, ...], comments: _Comments) -> list[str]:
    rows = [
        (
            code(method.name),
            ("stream of " if method.client_streaming else "") + _link(method.input_type),
            ("stream of " if method.server_streaming else "") + _link(method.output_type),
            escape(comments.get((*path, _METHODS, index), "")),
        )
        for index, method in enumerate(service.method)
    ]
    head = [f"### {service.name}", "", escape(comments.get(path, "")), ""]
    return head + table(("call", "takes", "gives", "what it does"), rows)


def _describe_message(message: Any, name: str, path: tuple[int, ...], comments: _Comments) -> list[str]:
    maps = {one.name: one for one in message.nested_type if one.options.map_entry}
    rows = [
        (
            str(field.number),
            code(field.name),
            _name_type(field, maps),
            escape(comments.get((*path, _FIELDS, index), "")),
        )
        for index, field in enumerate(message.field)
    ]
    lines = [f"### {name}", "", escape(comments.get(path, "")), ""]
    lines += table(("", "field", "type", "meaning"), rows) if rows else ["No fields."]
    for index, inner in enumerate(message.nested_type):
        if inner.name not in maps:
            place = (*path, _NESTED, index)
            lines += ["", *_describe_message(inner, f"{name}.{inner.name}", place, comments)]
    for index, enum in enumerate(message.enum_type):
        lines += ["", *_describe_enum(enum, f"{name}.{enum.name}", (*path, _NESTED_ENUMS, index), comments)]
    return lines


def _describe_enum(enum: Any, name: str, path: tuple[int, ...], comments: _Comments) -> list[str]:
    rows = [
        (str(value.number), code(value.name), escape(comments.get((*path, _FIELDS, index), "")))
        for index, value in enumerate(enum.value)
    ]
    return [f"### {name}", "", escape(comments.get(path, "")), "", *table(("", "value", "meaning"), rows)]


def _name_type(field: Any, maps: dict[str, Any]) -> str:
    inner = field.type_name.rpartition(".")[2]
    if inner in maps:
        key, value = maps[inner].field
        return f"map of {_name_type(key, {})} to {_name_type(value, {})}"
    name = _link(field.type_name) if field.type_name else code(_SCALARS[field.type])
    is_repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return f"{'repeated ' if is_repeated else ''}{name}"


def _link(type_name: str) -> str:
    name = type_name.removeprefix(".fedstill.v1.")
    return f"[{name}](#{name.lower().replace('.', '')})"
