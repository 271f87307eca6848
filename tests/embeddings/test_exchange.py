"""What of the exchange's precisions is refused, and what int8 falls back to."""

import pytest
import torch

from home_dist.config import ExchangeSection
from home_dist.embeddings.exchange import codecs
from home_dist.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"forward": "bf16"}, "distributed.exchange.forward = bf16: over gloo"),
        ({"gradients": "bf16"}, "distributed.exchange.gradients = bf16: over gloo"),
        ({"backward": "int8"}, "train.batch_size x embedding.dim = 31 x 8 is no multiple"),
    ],
)
def test_what_cannot_be_is_refused(section, told):
    with pytest.raises(ConfigError, match=told):
        codecs(ExchangeSection(**section), CPU, 31, 8)


def test_all_as_it_is_needs_no_codec():
    assert codecs(ExchangeSection(gradients="fp16"), CPU, 31, 8) is None


def test_int8_only_where_it_can_be():
    found = codecs(ExchangeSection(forward="int8", backward="bf16"), GPU, 32, 8)
    kinds = {name: (c.forward.quantized_dtype, c.backward.quantized_dtype) for name, c in found.items()}
    half = (torch.float16, torch.bfloat16)
    assert kinds == {
        "POOLED_EMBEDDINGS_ALL_TO_ALL": (torch.uint8, torch.bfloat16),
        "POOLED_EMBEDDINGS_REDUCE_SCATTER": half,
        "SEQUENCE_EMBEDDINGS_ALL_TO_ALL": half,
    }
