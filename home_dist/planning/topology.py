"""A topology such as 64xH100-80GB: number and kind of devices, and number of hosts; given, or that of a run's ranks."""

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home_dist.distributed.ranks import Ranks
from home_dist.errors import ConfigError, problem_lines
from home_dist.files.toml_text import read_toml

_KNOWN = Path(__file__).with_name("devices.toml")


class Device(BaseModel):
    """A kind of device, with speeds of one device: GB/s (1e9) of memory and links, TFLOP/s of products."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    platform: Literal["cuda", "cpu"]
    memory: float = Field(gt=0)
    """GB (1e9)"""
    memory_speed: float = Field(gt=0)
    bf16: float = Field(gt=0)
    fp32: float = Field(gt=0)
    intra: float = Field(gt=0)
    """GB/s to devices of the same host, in one direction."""
    inter: float = Field(gt=0)
    """GB/s to other hosts, in one direction."""
    per_host: int = Field(ge=1)
    host_memory: float = Field(default=0.0, ge=0)
    """GB of the host's memory for each of its devices: of tables that are not kept on the device."""
    host_link: float = Field(default=25.0, gt=0)
    """GB/s from the host's memory to the device, in one direction."""
    launch: float = Field(default=5.0, gt=0)
    """Microseconds of the host per launched operator. Eager PyTorch takes about 5 on hosts of GPUs."""
    decode: float = Field(default=395_000.0, gt=0)
    """Rows/s that one thread of the reader decodes: 790,322 with 2 threads in benchmarks/results/reader.md."""


@dataclass(frozen=True)
class Machines:
    name: str
    device: Device
    count: int
    hosts: int
    asked: bool = True
    """Whether --topology names them; else they are a run's own."""

    @property
    def per_host(self) -> int:
        return self.count // self.hosts


def machines(text: str, hosts: int | None = None, file: Path | None = None) -> Machines:
    """text: COUNTxKIND. file: a TOML of more kinds. Raises ConfigError."""
    kinds = _kinds(_KNOWN) | (_kinds(file) if file is not None else {})
    match = re.fullmatch(r"(\d+)x(.+)", text.strip())
    if match is None or int(match[1]) < 1:
        raise ConfigError(f"--topology {text}: write it as COUNTxKIND, e.g. 64xH100-80GB. Kinds: {', '.join(kinds)}")
    count, name = int(match[1]), match[2]
    if name not in kinds:
        raise ConfigError(
            f"--topology {text}: no kind {name!r}; there are {', '.join(kinds)}. --devices FILE adds kinds, written as "
            "those in home_dist/planning/devices.toml"
        )
    device = kinds[name]
    if hosts is None:
        hosts = -(-count // device.per_host)
        if count % hosts:
            raise ConfigError(
                f"--topology {text}: {count} devices do not divide evenly among {hosts} hosts of up to {device.per_host}. Say "
                "how many hosts there are: --hosts"
            )
    if count % hosts:
        raise ConfigError(f"--hosts {hosts}: {count} devices do not divide among them evenly")
    return Machines(name, device, count, hosts)


def detected(ranks: Ranks) -> Machines:
    """The ranks of a run, the same on every rank. Collective. A known kind of GPU has the memory that its name says, unless it
    has less; a rank on a CPU has its share of what is free on the fullest host."""
    gpu = torch.cuda.get_device_properties(ranks.device) if ranks.device.type == "cuda" else None
    own = gpu.total_memory if gpu is not None else psutil.virtual_memory().available // ranks.local_world_size
    in_host = psutil.virtual_memory().available // ranks.local_world_size
    found: list[tuple[float, float, int]] = [(own, in_host, ranks.local_world_size)] * ranks.world_size
    dist.all_gather_object(found, found[0])
    name, device = of_gpu(gpu.name, own / 1e9) if gpu is not None else ("CPU", _kinds(_KNOWN)["CPU-32GB"])
    memory, host_memory = (min(rank[i] for rank in found) / 1e9 for i in (0, 1))
    if gpu is not None and name in _kinds(_KNOWN):
        memory = min(memory, device.memory)
    # Hosts of different sizes are planned for as several of their common part.
    per_host = math.gcd(ranks.world_size, *(local for _, _, local in found))
    changes = {"memory": memory, "host_memory": host_memory if gpu is not None else device.host_memory}
    return Machines(name, device.model_copy(update=changes), ranks.world_size, ranks.world_size // per_host, False)


def of_gpu(name: str, memory: float) -> tuple[str, Device]:
    """The known kind of a GPU of this name and memory (GB): one of which it has the model's name, such as H100, and the nearest
    memory. An unknown GPU is taken to be as fast as the known kind of the nearest memory."""
    kinds = {k: d for k, d in _kinds(_KNOWN).items() if d.platform == "cuda"}
    named = {k: d for k, d in kinds.items() if re.search(rf"\b{k.split('-')[0]}\b", name)}
    kind = min(named or kinds, key=lambda k: abs(kinds[k].memory - memory))
    return kind if named else name, kinds[kind]


def _kinds(file: Path) -> dict[str, Device]:
    tree = tomllib.loads(file.read_text()) if file == _KNOWN else read_toml(file, "Give a TOML file of device kinds.")
    try:
        return {name: Device.model_validate(entry) for name, entry in tree.items()}
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file}: {line}" for line in problem_lines(error))) from None
