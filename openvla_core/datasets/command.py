"""`openvla dataset check|stats|convert`: what can be done with demonstrations before training."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_core.errors import OpenVLAError

EXIT_ERROR = 3
PARTS = {
    "check": ("openvla_core.datasets.check.run", "find the mistakes in recorded bags"),
    "stats": ("", "write dataset_statistics.json"),
    "convert": ("openvla_core.datasets.convert", "to LeRobot or RLDS, from bags, LeRobot, RLDS or HDF5"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status of the part that was asked for."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="openvla dataset", description=__doc__.split(": ", 1)[1].capitalize())
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, (_, description) in PARTS.items():
        parts.add_parser(name, help=description, add_help=False)
    part = parser.parse_args(argv[:1]).part
    if part == "stats":
        return stats(argv[1:])
    return importlib.import_module(PARTS[part][0]).main(argv[1:])


def stats(argv: Sequence[str]) -> int:
    """Writes the statistics of a data set, which give its normalised actions their units."""
    parser = argparse.ArgumentParser(prog="openvla dataset stats", description=stats.__doc__)
    parser.add_argument("source", type=Path, help="folder of bags, LeRobot or RLDS folder, HDF5 file")
    parser.add_argument("--name", help="unnorm_key of the data set (default: the name of the folder)")
    parser.add_argument("--out", type=Path, help="folder for dataset_statistics.json (default: print it)")
    parser.add_argument("--bag-settings", type=Path, help="YAML file that tells how bags become episodes")
    options = parser.parse_args(argv)
    from openvla_core.datasets.convert import open_source
    from openvla_core.datasets.statistics import dataset_statistics, write_statistics

    try:
        source = open_source(options.source, bag_settings=options.bag_settings)
        statistics = dataset_statistics(options.name or options.source.resolve().name, source)
        if options.out is None:
            sys.stdout.write(json.dumps(statistics, indent=2) + "\n")
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(f"written to {write_statistics(options.out, statistics)}\n")
    except OpenVLAError as error:
        sys.stderr.write(f"openvla dataset stats: {error}\n")
        return EXIT_ERROR
    return 0
