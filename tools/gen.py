"""Generate `gen/` from `proto/`: messages, gRPC stubs and their types. `--check` only compares.

The validation rules' own proto is in no package as a source file; its descriptor is inside
protovalidate and goes to protoc as a descriptor set.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import grpc_tools
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".build"


def validate_descriptor_set() -> Path:
    """Write buf/validate/validate.proto and what it imports as a FileDescriptorSet."""
    from protovalidate._gen.buf.validate import validate_pb

    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    for module in (http_pb2, annotations_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    BUILD.mkdir(exist_ok=True)
    target = BUILD / "validate.binpb"
    target.write_bytes(files.SerializeToString())
    return target


def protoc_arguments() -> list[str]:
    """The arguments every run of protoc shares."""
    wellknown = resources.files(grpc_tools) / "_proto"
    return [
        "protoc",
        f"-I{ROOT / 'proto'}",
        f"-I{wellknown}",
        f"-I{google_api_protos()}",
        f"--descriptor_set_in={validate_descriptor_set()}",
        *(
            f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
            for name in ("mypy", "mypy_grpc")
        ),
    ]


def google_api_protos() -> Path:
    """Folder of googleapis-common-protos that holds google/api/*.proto."""
    return Path(annotations_pb2.__file__).resolve().parent.parent.parent


def sources() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto")
    )


def run(arguments: list[str]) -> None:
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; its message is above")


def generate(target: Path) -> None:
    """All Python of the contracts into `target`."""
    messages = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    stubs = [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]
    run([*protoc_arguments(), *messages, *stubs, *sources()])
    run([*protoc_arguments(), *messages, "buf/validate/validate.proto"])
    for folder in (target / "tidebook").rglob("*"):
        if folder.is_dir():
            (folder / "__init__.py").touch()
    (target / "tidebook" / "__init__.py").touch()
    (target / "tidebook" / "py.typed").touch()
    write_comments(target / "tidebook" / "comments.json")
    (target / "buf" / "__init__.py").touch()
    (target / "buf" / "validate" / "__init__.py").touch()


def generate_web(target: Path) -> None:
    """The page's TypeScript types into `target`; needs `npm ci` in web/ (and node) once."""
    plugin = ROOT / "web" / "node_modules" / ".bin" / "protoc-gen-es"
    if not plugin.exists():
        raise SystemExit("web/node_modules is missing; run `npm ci` in web/ first")
    target.mkdir(parents=True, exist_ok=True)
    run(
        [
            *protoc_arguments(),
            f"--plugin=protoc-gen-es={plugin}",
            f"--es_out={target}",
            "--es_opt=target=ts,json_types=true",
            *sources(),
            "buf/validate/validate.proto",
            "google/api/annotations.proto",
            "google/api/http.proto",
        ]
    )


def image(target: Path) -> None:
    """One descriptor set with comments, for buf and for the OpenAPI document."""
    run(
        [
            *protoc_arguments(),
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={target}",
            *sources(),
        ]
    )


def write_comments(target: Path) -> None:
    """Full name -> comment of everything in the contracts, as JSON; generated code has none."""
    with tempfile.TemporaryDirectory() as scratch:
        binary = Path(scratch) / "image.binpb"
        image(binary)
        files = descriptor_pb2.FileDescriptorSet.FromString(binary.read_bytes())
    comments: dict[str, str] = {}
    for file in files.file:
        if file.package.startswith("tidebook."):
            for location in file.source_code_info.location:
                text = " ".join(location.leading_comments.split())
                if text and len(location.path) % 2 == 0:
                    comments[_name_at(file, list(location.path))] = text
    target.write_text(json.dumps(comments, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str:
    """Full name of what a SourceCodeInfo path points at: (field number, index) pairs."""
    here: Any = file
    names = [file.package]
    for number, index in zip(path[::2], path[1::2], strict=True):
        here = getattr(here, here.DESCRIPTOR.fields_by_number[number].name)[index]
        names.append(here.name)
    return ".".join(names)


def replace(target: Path, source: Path) -> None:
    """Make `target` equal to `source`, file by file: a running process may be importing from it."""
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_file() and not (source / path.relative_to(target)).exists():
            path.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)


def differences(left: Path, right: Path) -> list[str]:
    compared = filecmp.dircmp(left, right, ignore=["__pycache__"])
    found = [*compared.left_only, *compared.right_only]
    _, mismatch, errors = filecmp.cmpfiles(left, right, compared.common_files, shallow=False)
    found += [*mismatch, *errors]
    for name in compared.common_dirs:
        found += [f"{name}/{below}" for below in differences(left / name, right / name)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="fail if gen/ is not what proto/ gives"
    )
    parser.add_argument("--web", action="store_true", help="generate web/src/gen instead of gen/")
    parser.add_argument("--image", type=Path, help="write only the descriptor image to this file")
    options = parser.parse_args()
    if options.image:
        image(options.image)
        return
    target = ROOT / "web" / "src" / "gen" if options.web else ROOT / "gen"
    with tempfile.TemporaryDirectory() as scratch:
        (generate_web if options.web else generate)(Path(scratch))
        if not options.check:
            replace(target, Path(scratch))
        elif found := differences(target, Path(scratch)):
            name = target.relative_to(ROOT)
            sys.exit(f"{name}/ differs from what proto/ gives (run `make gen`): {', '.join(found)}")


if __name__ == "__main__":
    main()
