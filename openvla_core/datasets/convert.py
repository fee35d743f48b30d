"""Converts demonstrations from one format into another: bags, LeRobot, RLDS and HDF5 into LeRobot or RLDS.

python -m openvla_core.datasets.convert SOURCE TARGET --to lerobot
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from openvla_core.datasets.episode import Episode, EpisodeSource
from openvla_core.durable import sync, sync_tree
from openvla_core.errors import DatasetError, OpenVLAError

SOURCES = ("auto", "bags", "lerobot", "rlds", "hdf5")
TARGETS = ("lerobot", "lerobot-v2.1", "rlds")


def open_source(
    path: Path,
    kind: str = "auto",
    split: str = "train",
    cameras: Mapping[str, str] | None = None,
    bag_settings: Path | None = None,
) -> EpisodeSource:
    """Opens a data set of any format this release reads.

    kind: one of SOURCES. split: for RLDS. cameras: camera name -> key in the data set, for all but bags. bag_settings:
    a YAML file with the fields of openvla_core.datasets.bags.reader.ReadingSettings.
    Raises DatasetError when there is nothing to read or the kind is another.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give a folder or a file with demonstrations.")
    kind = detect(path) if kind == "auto" else kind
    if kind == "lerobot":
        from openvla_core.datasets.lerobot.v30 import open_lerobot

        return open_lerobot(path, cameras)
    if kind == "rlds":
        from openvla_core.datasets.rlds.reader import RldsSource

        return RldsSource(path, split, cameras)
    if kind == "hdf5":
        from openvla_core.datasets.hdf5 import Hdf5Source

        return Hdf5Source(path, cameras=cameras)
    if kind == "bags":
        from openvla_core.datasets.bags.reader import BagSource, load_settings

        return BagSource(path, load_settings(bag_settings) if bag_settings else None)
    raise DatasetError(f"the format {kind!r} is unknown; choose one of {', '.join(SOURCES)}.")


def detect(path: Path) -> str:
    """The format of a folder or file by the files it has. Raises DatasetError when it is none of ours."""
    if (path / "meta/info.json").is_file():
        return "lerobot"
    if (path / "dataset_info.json").is_file() or any(path.glob("*/dataset_info.json")):
        return "rlds"
    if path.suffix in (".hdf5", ".h5") or any(path.glob("*.hdf5")):
        return "hdf5"
    if path.suffix in (".mcap", ".db3") or any(path.rglob("metadata.yaml")):
        return "bags"
    raise DatasetError(
        f"{path} is no data set that is known here. Expected bags (metadata.yaml), LeRobot (meta/info.json), RLDS "
        "(dataset_info.json) or HDF5 (*.hdf5)."
    )


def convert(
    source: EpisodeSource, target: Path, to: str, video: bool = False, robot: str | None = None, progress: bool = False
) -> int:
    """Writes all episodes of a source as the new folder `target`; returns their number.

    to: one of TARGETS. video: pictures as mp4, which loses a little (LeRobot only). robot: its name, for LeRobot.
    The folder appears when it is complete: what fails or is interrupted leaves nothing behind, and nothing that is
    there is overwritten. Raises DatasetError for an existing target and for episodes that do not fit together.
    """
    target = Path(target).absolute()
    if to not in TARGETS:
        raise DatasetError(f"the format {to!r} cannot be written; choose one of {', '.join(TARGETS)}.")
    if video and to == "rlds":
        raise DatasetError("RLDS has no videos; leave the option out.")
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = target.with_name(f".{target.name}.writing-{os.getpid()}")
    try:
        count = _write(_shown(source, progress), workplace, target.name, to, video, robot)
        sync_tree(workplace)
        _refuse_existing(target)
        workplace.rename(target)
        sync(target.parent)
    except OSError as error:
        raise DatasetError(f"{target} cannot be written ({error}). Nothing was left there.") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 after writing to stderr what is wrong."""
    options = build_parser().parse_args(arguments)
    try:
        cameras = dict(_pair(text) for text in options.camera) or None
        source = open_source(options.source, options.source_format, options.split, cameras, options.bag_settings)
        count = convert(source, options.target, options.to, options.video, options.robot, not options.quiet)
    except OpenVLAError as error:
        sys.stderr.write(f"openvla dataset convert: {error}\n")
        return 1
    sys.stdout.write(f"{count} episodes written to {options.target}\n")
    return 0


def build_parser(parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Adds the options of a conversion to a parser, a new one by default."""
    parser = parser or argparse.ArgumentParser(
        prog="openvla dataset convert", description="Convert demonstrations to LeRobot or RLDS."
    )
    parser.add_argument("source", type=Path, help="folder of bags, LeRobot or RLDS folder, HDF5 file or folder of them")
    parser.add_argument("target", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--to", choices=TARGETS, default="lerobot", help="format to write")
    parser.add_argument("--from", dest="source_format", choices=SOURCES, default="auto", help="format of the source")
    parser.add_argument("--video", action="store_true", help="store pictures as mp4, smaller and not exact (LeRobot)")
    parser.add_argument("--robot", help="name of the robot, for LeRobot's info.json")
    parser.add_argument("--split", default="train", help="split of an RLDS source")
    parser.add_argument("--bag-settings", type=Path, help="YAML file that tells how bags become episodes")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="which picture is which: primary=image",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _write(episodes: Iterable[Episode], folder: Path, name: str, to: str, video: bool, robot: str | None) -> int:
    if to == "rlds":
        from openvla_core.datasets.rlds.writer import write_rlds

        return write_rlds(episodes, folder, name)
    if to == "lerobot":
        from openvla_core.datasets.lerobot.v30 import write_lerobot

        return write_lerobot(episodes, folder, video, robot)
    from openvla_core.datasets.lerobot.v21 import write_lerobot_v21

    return write_lerobot_v21(episodes, folder, video, robot)


def _shown(source: EpisodeSource, progress: bool) -> Iterator[Episode]:
    if not progress:
        yield from source
        return
    from tqdm import tqdm

    yield from tqdm(source, total=len(source), unit=" episodes", desc=source.name)


def _pair(text: str) -> tuple[str, str]:
    name, equals, key = text.partition("=")
    if not (name and equals and key):
        raise DatasetError(f"--camera {text!r} is not understood; write a name and a key, such as primary=image.")
    return name, key


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise DatasetError(f"{target} exists already; nothing is overwritten. Remove it or choose another name.")


if __name__ == "__main__":
    sys.exit(main())
