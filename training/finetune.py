"""For torchrun: torchrun --nproc-per-node 8 training/finetune.py --recipe FILE --data ... --base ... --out ...

The same options as `openvla finetune`, which is enough on one GPU or on a CPU.
"""

import sys

from openvla_core.training.finetune import main

if __name__ == "__main__":
    sys.exit(main())
