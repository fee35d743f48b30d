"""`openvla dataset check|stats|convert|shard`: what can be done with demonstrations before training."""

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openvla_core.errors import OpenVLAError

if TYPE_CHECKING:
    from openvla_core.datasets.episode import EpisodeSource

EXIT_ERROR = 3
log = logging.getLogger(__name__)
PARTS = {
    "check": ("openvla_core.datasets.check.run", "find the mistakes in recorded bags"),
    "stats": ("", "write dataset_statistics.json"),
    "shard": ("", "write tar shards, from which large mixtures stream into training"),
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
    own = {"stats": stats, "shard": shard}
    if part not in own:
        return importlib.import_module(PARTS[part][0]).main(argv[1:])
    try:
        sys.stdout.write(own[part](argv[1:]) + "\n")
    except OpenVLAError as error:
        sys.stderr.write(f"openvla dataset {part}: {error}\n")
        return EXIT_ERROR
    return 0


def stats(argv: Sequence[str]) -> str:
    """Writes the statistics of a data set, which give its normalised actions their units."""
    parser = _source_parser("stats", str(stats.__doc__))
    parser.add_argument("--out", type=Path, help="folder for dataset_statistics.json (default: print it)")
    options = parser.parse_args(argv)
    from openvla_core.datasets.statistics import dataset_statistics, write_statistics

    statistics = dataset_statistics(_name(options), _source(options))
    if options.out is None:
        return json.dumps(statistics, indent=2)
    options.out.mkdir(parents=True, exist_ok=True)
    return f"written to {write_statistics(options.out, statistics)}"


def shard(argv: Sequence[str]) -> str:
    """Writes a data set as tar shards."""
    parser = _source_parser("shard", str(shard.__doc__))
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--future", type=int, default=0, help="following actions stored with each step (default 0)")
    parser.add_argument("--frame-size", type=int, help="side of the stored pictures, pixels (default: as recorded)")
    parser.add_argument(
        "--oxe",
        metavar="NAME",
        help="the source is this data set of Open X-Embodiment as it was published (RLDS): standardise its actions",
    )
    parser.add_argument("--split", default="train", help="split of an RLDS source (default train)")
    options = parser.parse_args(argv)
    from openvla_core.datasets.oxe.catalog import DATASETS
    from openvla_core.datasets.oxe.source import OxeEpisodes
    from openvla_core.datasets.streaming.shard_writer import write_shards

    published = OxeEpisodes(options.source, options.oxe, options.split) if options.oxe else None
    name = options.name or options.oxe or _name(options)
    source = published or _source(options)
    if not published and source.name in DATASETS:
        log.warning("%s: if these are the published files, standardise them: --oxe %s", options.source, source.name)
    written = write_shards(source, options.out, name, future=options.future, frame_size=options.frame_size)
    left_out = written["left_out"] + (published.left_out if published else 0)
    told = f"{written['steps']} steps of {written['episodes']} episodes written to {options.out}"
    return told + (f"; {left_out} left out, see the warnings" if left_out else "")


def _source_parser(part: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"openvla dataset {part}", description=description)
    parser.add_argument("source", type=Path, help="folder of bags, LeRobot or RLDS folder, HDF5 file")
    parser.add_argument("--name", help="unnorm_key of the data set (default: the name of the folder)")
    parser.add_argument("--bag-settings", type=Path, help="YAML file that tells how bags become episodes")
    return parser


def _source(options: argparse.Namespace) -> "EpisodeSource":
    from openvla_core.datasets.convert import open_source

    return open_source(options.source, bag_settings=options.bag_settings)


def _name(options: argparse.Namespace) -> str:
    return options.name or options.source.resolve().stem
