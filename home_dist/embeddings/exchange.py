"""In which precision embeddings and their gradients travel between ranks: TorchRec's codecs, chosen by operation."""

import torch
from fbgemm_gpu.quantize_comm import QuantizedCommCodec
from fbgemm_gpu.split_embedding_configs import SparseType
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from home_dist.config import ExchangeSection
from home_dist.errors import ConfigError

Codecs = dict[str, QuantizedCommCodecs]

_TYPES = {"fp32": SparseType.FP32, "fp16": SparseType.FP16, "bf16": SparseType.BF16, "int8": SparseType.INT8}
_GROUP = 32  # values that share a scale and an offset in FBGEMM's int8
# Sums over ranks (row-wise tables) cannot be taken of int8, and TorchRec hands no context to the codec of histories.
_TAKES_INT8 = {CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL}
_OPERATIONS = (
    CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL,
    CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER,
    CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL,
)


def codecs(section: ExchangeSection, device: torch.device, batch_size: int, dim: int) -> Codecs | None:
    """None where all travels as it is. batch_size: B of a rank; dim: width of sharded tables.

    Raises ConfigError for what this device's backend or the widths do not allow.
    """
    for key, precision in section.model_dump().items():
        if precision == "bf16" and device.type == "cpu":
            raise ConfigError(f"distributed.exchange.{key} = bf16: over gloo, as ranks on CPUs talk, there is none. Take fp16.")
    chosen = {"forward": section.forward, "backward": section.backward}
    if set(chosen.values()) == {"fp32"}:
        return None
    for key, precision in chosen.items():
        if precision == "int8" and batch_size * dim % _GROUP:
            raise ConfigError(
                f"distributed.exchange.{key} = int8 takes {_GROUP} values together: train.batch_size x embedding.dim = "
                f"{batch_size} x {dim} is no multiple of it. Take a batch size that is a multiple of {_GROUP}."
            )
    found: Codecs = {}
    for operation in _OPERATIONS:
        own = {k: "fp16" if p == "int8" and operation not in _TAKES_INT8 else p for k, p in chosen.items()}
        found[operation.name] = QuantizedCommCodecs(
            forward=QuantizedCommCodec(_TYPES[own["forward"]], is_fwd=True),
            backward=QuantizedCommCodec(_TYPES[own["backward"]], is_fwd=False),
        )
    return found
