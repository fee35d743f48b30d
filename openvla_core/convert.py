"""Converts weights of other projects into checkpoint directories, offline.

python -m openvla_core.convert prismatic RUN OUT --tokenizer DIR
python -m openvla_core.convert to-prismatic CHECKPOINT RUN
python -m openvla_core.convert backbones OUT --dinov2 PATH --siglip PATH --llama DIR --tokenizer DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_core.errors import OpenVLAError
from openvla_core.json_file import read_json
from openvla_core.weights import DTYPES


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 after writing to stderr what is wrong."""
    options = build_parser().parse_args(arguments)
    try:
        print_line(f"written to {convert(options)}")
    except OpenVLAError as error:
        print_line(f"openvla convert: {error}", error=True)
        return 1
    return 0


def build_parser(parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Adds the three conversions to a parser, a new one by default."""
    parser = parser or argparse.ArgumentParser(prog="openvla convert", description="Convert weights of other projects.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    prismatic = kinds.add_parser("prismatic", help="a run of the Prismatic training code, from its .pt file")
    prismatic.add_argument("source", type=Path, help="run directory, or one file in its folder checkpoints")
    export = kinds.add_parser("to-prismatic", help="the other way round")
    export.add_argument("source", type=Path, help="checkpoint directory")
    export.add_argument("out", type=Path, help="run directory to write")
    backbones = kinds.add_parser("backbones", help="a new model from DINOv2, SigLIP and a Llama")
    backbones.add_argument("--dinov2", type=Path, help="directory or file; leave out for SigLIP alone")
    backbones.add_argument("--siglip", type=Path, required=True, help="directory or file")
    backbones.add_argument("--llama", type=Path, required=True, help="directory")
    backbones.add_argument("--image-size", type=int, default=224, help="pixels")
    for new in (prismatic, backbones):
        new.add_argument("out", type=Path, help="checkpoint directory to write")
        new.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer.json")
        new.add_argument("--config", type=Path, help="JSON with fields of config.json to add or replace")
        new.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="of the stored weights")
    return parser


def convert(options: argparse.Namespace) -> Path:
    """Does what the parsed options ask for; returns what was written. Raises OpenVLAError."""
    if options.kind == "to-prismatic":
        from openvla_core.conversion.prismatic import export_prismatic

        return export_prismatic(options.source, options.out)
    changes = read_json(options.config) if options.config else {}
    if options.kind == "prismatic":
        from openvla_core.conversion.prismatic import import_prismatic

        return import_prismatic(options.source, options.out, options.tokenizer, changes, options.dtype)
    from openvla_core.conversion.backbones import from_backbones

    paths = {"dinov2": options.dinov2, "siglip": options.siglip}
    towers = {name: path for name, path in paths.items() if path is not None}
    size, dtype = options.image_size, options.dtype
    return from_backbones(options.out, towers, options.llama, options.tokenizer, size, changes, dtype)


def print_line(text: str, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
