"""A topology such as 64xH100-80GB: number and kind of devices, and number of hosts."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home_dist.config.toml_file import read_toml
from home_dist.errors import ConfigError, problem_lines

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
    hosts = hosts if hosts is not None else -(-count // device.per_host)
    if count % hosts:
        raise ConfigError(f"--hosts {hosts}: {count} devices do not divide among them evenly")
    return Machines(name, device, count, hosts)


def _kinds(file: Path) -> dict[str, Device]:
    tree = tomllib.loads(file.read_text()) if file == _KNOWN else read_toml(file, "Give a TOML file of device kinds.")
    try:
        return {name: Device.model_validate(entry) for name, entry in tree.items()}
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file}: {line}" for line in problem_lines(error))) from None
