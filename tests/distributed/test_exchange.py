"""Embeddings and gradients that travel between ranks in fewer bits: near the curve of fp32, and half of the bytes."""

import pytest

from home_dist.insight.trace import breakdown, read_trace
from tests.factory import make_config, make_data
from tests.ranks import run, settings

pytestmark = pytest.mark.distributed

SHARDING = settings(embedding__tables__video__sharding="row_wise", embedding__tables__user__sharding="table_wise")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=1024, files=2, row_group=128)


def trained(data, folder, **exchange):
    """Losses by step, and bytes that a rank hands to all_to_all and to all_reduce in a step."""
    config = make_config(folder, data, batch_size=32)
    options = settings(**{f"distributed__exchange__{key}": value for key, value in exchange.items()})
    ended = run(2, "train", config, "--profile", "--profile-steps", 4, *SHARDING, *options)
    assert ended.codes == [0, 0], ended.text
    found = breakdown(read_trace(folder / "run" / "profile" / "rank-00000.json.gz")).exchanges
    losses = [float(loss) for _, loss in sorted(ended.losses().items())]
    return losses, found["all_to_all"].bytes, found["all_reduce"].bytes


@pytest.fixture(scope="module")
def exact(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("exact"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exchange", "near", "shares"),
    [
        ({"forward": "fp16", "backward": "fp16", "gradients": "fp16"}, 2e-3, (0.75, 0.55)),
        ({"forward": "int8", "backward": "fp16"}, 2e-2, (0.75, 1.0)),
    ],
    ids=["fp16", "int8"],
)
def test_the_loss_curve_stays_near(exchange, near, shares, exact, data, tmp_path):
    losses, sent, reduced = trained(data, tmp_path, **exchange)
    expected, sent_exact, reduced_exact = exact
    differences = [abs(a / b - 1) for a, b in zip(losses, expected, strict=True)]
    assert max(differences) <= 2 * near
    assert sum(differences) / len(differences) <= near / 2
    assert losses != expected
    assert sent <= shares[0] * sent_exact  # ids and lengths stay as they are
    assert reduced <= shares[1] * reduced_exact
