"""Precision in which ranks exchange embeddings and their gradients: TorchRec's codecs, chosen by operation."""

import torch
from fbgemm_gpu.quantize_comm import QuantizedCommCodec
from fbgemm_gpu.split_embedding_configs import SparseType
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from home_dist.config import ExchangeSection
from home_dist.errors import ConfigError

Codecs = dict[str, QuantizedCommCodecs]

_TYPES = {"fp32": SparseType.FP32, "fp16": SparseType.FP16, "bf16": SparseType.BF16, "int8": SparseType.INT8}
_GROUP = 32  # values that share a scale and an offset in FBGEMM's int8
# Row-wise tables sum over ranks, which int8 cannot; for histories TorchRec passes no context to the codec, which int8 needs.
_TAKES_INT8 = {CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL}
_OPERATIONS = (
    CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL,
    CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER,
    CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL,
)


def codecs(section: ExchangeSection, device: torch.device, batch_size: int, dim: int) -> Codecs | None:
    """Codecs by operation; None if all is sent in fp32. batch_size: B of a rank; dim: width of sharded tables.

    Raises ConfigError for a precision that the device's backend or the widths do not allow.
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
    by_operation: Codecs = {}
    for operation in _OPERATIONS:
        precisions = {k: "fp16" if p == "int8" and operation not in _TAKES_INT8 else p for k, p in chosen.items()}
        by_operation[operation.name] = QuantizedCommCodecs(
            forward=QuantizedCommCodec(_TYPES[precisions["forward"]], is_fwd=True),
            backward=QuantizedCommCodec(_TYPES[precisions["backward"]], is_fwd=False),
        )
    return by_operation
