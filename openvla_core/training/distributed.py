"""One process or many: who this one is, how the model is laid out over them, and what they add up.

Started by itself a process trains alone. Started by torchrun, `torchrun --nproc-per-node 8 ...`, it is one of many; the
program is the same.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from openvla_core.errors import ConfigError
from openvla_core.training.loss import RowModel

# Preparing data may take the first process long, while the others wait.
PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. local_*: among those on the same machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """The one that writes and reports."""
        return self.rank == 0

    def all_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same everywhere; a new tensor."""
        total = values.clone()
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier(device_ids=[self.local_rank] if self.device.type == "cuda" else None)

    def all_agree(self, good: bool) -> bool:
        """Whether it is good on every process."""
        return not self.any_says(not good)

    def any_says(self, so: bool) -> bool:
        """Whether it is so on one process at least. Asked between the CPUs: no GPU is waited for."""
        return bool(self.all_sum(torch.tensor([1.0 if so else 0.0])).item())


@contextmanager
def ranks(device: str = "auto") -> Iterator[Ranks]:
    """Joins the processes that torchrun started, if it did, and leaves them at the end.

    device: "cpu", "cuda" or "auto". Raises ConfigError when there is no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    joined = False
    if world > 1 and not dist.is_initialized():
        backend = "cuda:nccl,cpu:gloo" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        joined = True
    try:
        yield Ranks(rank, world, local, int(os.environ.get("LOCAL_WORLD_SIZE", str(world))), chosen)
    finally:
        if joined:
            dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"device is {name!r}; choose auto, cpu or cuda. Which of several GPUs, torchrun decides.")
    if not torch.cuda.is_available():
        raise ConfigError("device is 'cuda' and torch finds none here. Choose 'cpu' or install torch for your GPU.")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def make_mesh(ranks: Ranks, sharding: str) -> DeviceMesh:
    """(replicate, shard): how many copies of the weights there are, and over how many processes each is spread.

    sharding: "none", every process holds all weights; "node", the processes of a machine share one copy; "all", all
    processes share one. Raises ConfigError when machines have different numbers of processes.
    """
    sizes = {"none": 1, "node": ranks.local_world, "all": ranks.world}
    if sharding not in sizes or ranks.world % sizes[sharding]:
        raise ConfigError(
            f"sharding {sharding!r} with {ranks.world} processes, {ranks.local_world} on this machine: choose none, "
            "node or all, and start equally many on every machine."
        )
    shape = (ranks.world // sizes[sharding], sizes[sharding])
    return init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))


def spread(module: RowModel, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Lays the parameters out over the mesh, in place, each layer as a unit that is gathered when it computes.

    dtype: what is computed in; gradients are added up in float32. Weights that are not trained stay whole where no copy
    is spread: then only gradients travel.
    """
    policy = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
    whole = mesh.size(1) == 1
    frozen = {parameter for parameter in module.parameters() if whole and not parameter.requires_grad}
    for unit in [*layers(module), module]:
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=frozen)


def layers(module: RowModel) -> list[nn.Module]:
    """Every block of the towers that is run, and every decoder layer."""
    backbone, llama = module.model.vision_backbone, module.model.language_model.model
    towers = [getattr(backbone, name) for name in ("featurizer", "fused_featurizer") if hasattr(backbone, name)]
    return [block for tower in towers for block in tower.blocks[:-1]] + list(llama.layers)


def last_pass(module: nn.Module, last: bool) -> None:
    """Copies of the weights need each other's gradients only after the last of several passes."""
    if isinstance(module, FSDPModule):
        module.set_requires_all_reduce(last)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_rows(tensor: Tensor) -> tuple[int, int]:
    """First and last-but-one-further row that this process holds, of the first dimension; a scalar is row 0 to 1."""
    if not tensor.ndim:
        return 0, 1
    if not isinstance(tensor, DTensor):
        return 0, len(tensor)
    mesh = tensor.device_mesh
    shards, rank = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
    first, last = rows_of(len(tensor), shards, rank)
    assert last - first == len(tensor.to_local()), (tensor.shape, shards, rank)
    return first, last


def rows_of(rows: int, shards: int, rank: int) -> tuple[int, int]:
    """Which rows process `rank` of `shards` holds: equally many, the last ones fewer or none."""
    each = -(-rows // shards)
    return min(rank * each, rows), min((rank + 1) * each, rows)


def gather(tensors: Iterable[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """Whole tensors in the memory of the first process, nothing on the others; every process must ask."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors:
        full = whole(tensor.detach())
        if ranks.first:
            kept[name] = full.to("cpu", copy=True)
    return kept
