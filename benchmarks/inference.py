"""The time of one action, mode against mode; the same as `openvla bench`, for machines without ROS.

python benchmarks/inference.py                             # the shipped checkpoint on the CPU, about a minute
python benchmarks/inference.py --device cuda --size 7b     # full size, random weights
python benchmarks/inference.py --json out.json --markdown out.md
"""

import sys

from openvla_core.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
