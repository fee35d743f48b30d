"""The command `openvla`. Each part is imported only when it is asked for."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_core.errors import OpenVLAError

EXIT_ERROR = 3
# Commands with a parser of their own: each module has main(arguments) -> exit code.
DELEGATED = {
    "demo": ("openvla_ros.demo", "run episodes on the simulated arm and report"),
    "record": ("openvla_ros.record", "record episodes; also: repair and label recordings"),
    "dataset": ("openvla_core.datasets.command", "check, describe and convert demonstrations"),
    "finetune": ("openvla_core.training.finetune", "train a checkpoint on demonstrations"),
    "merge": ("openvla_core.training.merge", "add a LoRA adapter to the weights of its base"),
    "bench": ("openvla_core.bench.command", "time one action, mode against mode, and check that the tokens are equal"),
    "convert": ("openvla_core.convert", "make a checkpoint from weights of other projects"),
}


def build_parser(with_system: bool = True) -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="openvla", description="Language-driven robot arms on ROS 2.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start policy, controller and robot until Ctrl-C")
    up.add_argument("--logs", type=Path, help="also keep one log file per process in this folder")
    if with_system:
        add_system_arguments(up)
    for name, (_, description) in DELEGATED.items():
        commands.add_parser(name, help=description, add_help=False)
    say = commands.add_parser("say", help="give the running system an instruction")
    say.add_argument("instruction", help='such as "pick up the red cube"')
    doctor = commands.add_parser("doctor", help="describe and test a checkpoint")
    doctor.add_argument("checkpoint", type=Path, help="directory of the checkpoint")
    doctor.add_argument("--device", default="cpu", help="where to load it (default cpu)")
    doctor.add_argument("--dtype", default="float32", help="number format of the weights (default float32)")
    doctor.add_argument("--quantization", default="none", help="none, int8, int4 or nf4 (default none)")
    doctor.add_argument("--adapter", type=Path, help="directory of a LoRA adapter")
    doctor.add_argument(
        "--no-load", action="store_true", help="read no weights: facts from their headers, no self-test"
    )
    doctor.add_argument(
        "--write-checksums",
        action="store_true",
        help="write SHA256SUMS: damage is noticed from then on",
    )
    doctor.add_argument("--json", action="store_true", help="print the facts as JSON")
    return parser


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per argument of the launch files."""
    from openvla_ros.system import argument_fields

    for field in argument_fields():
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            choices=field.metadata["choices"] or None,
            help=field.metadata["description"] + (f" (default {field.default})" if field.default else ""),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code of the subcommand; 3 for anything the user can correct."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in DELEGATED:
        return importlib.import_module(DELEGATED[argv[0]][0]).main(argv[1:])
    # Only `up` needs the messages; the others should work without them.
    arguments = build_parser(with_system=argv[:1] == ["up"]).parse_args(argv)
    try:
        return {"up": up, "say": say, "doctor": doctor}[arguments.command](arguments)
    except OpenVLAError as error:
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print("".join(letter if letter.isprintable() else "?" for letter in line), file=sys.stderr)
        return EXIT_ERROR


def up(arguments: argparse.Namespace) -> int:
    """Starts the system and shows its output until Ctrl-C."""
    from openvla_ros.bringup import run_until_stopped
    from openvla_ros.system import argument_fields, arguments_from

    values = {field.name: getattr(arguments, field.name) for field in argument_fields()}
    return run_until_stopped(arguments_from(values), arguments.logs)


def say(arguments: argparse.Namespace) -> int:
    """Publishes one instruction and prints the policy's answer."""
    from openvla_ros import say as node
    from openvla_ros.bringup import parameter_text

    return node.main(["--ros-args", "-p", f"instruction:={parameter_text(arguments.instruction)}"])


def doctor(arguments: argparse.Namespace) -> int:
    """Prints what a checkpoint is; 1 when it cannot drive an arm."""
    from openvla_core.doctor import examine

    report = examine(
        arguments.checkpoint,
        arguments.device,
        arguments.dtype,
        arguments.quantization,
        arguments.adapter,
        load=not arguments.no_load,
        rewrite_checksums=arguments.write_checksums,
    )
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if arguments.json else report.to_text()
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
