"""Generates the Python code of protos/fedstill/v1; run it as `make generate`.

protoc runs from the repository root and goes through the package, so that the generated imports
are `from fedstill.protos.fedstill.v1 import …` and need no rewriting.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("fedstill", "protos", "fedstill", "v1")
PROTOS = sorted((ROOT / FOLDER).glob("*.proto"))


def generate(output_dir: Path) -> None:
    """Writes the generated modules and type stubs below a folder.

    Args:
        output_dir: Folder that receives `fedstill/protos/fedstill/v1/*_pb2*.py[i]`.

    Raises:
        SystemExit: protoc refused a file.
    """
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={ROOT}",
        f"--proto_path={well_known}",
        f"--python_out={output_dir}",
        f"--pyi_out={output_dir}",
        f"--grpc_python_out={output_dir}",
        *(str(path.relative_to(ROOT)) for path in PROTOS),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"protoc failed: {' '.join(arguments)}")
    for path in output_dir.glob(f"{FOLDER}/fleet_pb2_grpc.py"):
        path.unlink()  # fleet.proto holds messages only


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
