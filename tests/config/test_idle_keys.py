"""A key that is set and has no effect is refused; written configurations, which hold all keys, are read again."""

import pytest

from home_dist.config import RunConfig, config_tree, load_config
from home_dist.errors import ConfigError
from home_dist.objectives.regression import RegressionSection

BASE = '[run]\ndir = "r"\n[data]\npath = "d"\nrequest = "request"\n'


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.a={kind='regression', quantile=0.9}", "quantile has no effect with loss = 'squared'"),
        ("objective.a={kind='regression', delta=2.0}", "delta has no effect with loss = 'squared'"),
        ("objective.a={kind='binary', within_weight=5.0}", "within_weight has no effect with no `within`"),
        ("train.weighting={kind='dwa', alpha=0.5}", "alpha has no effect with kind = 'dwa'"),
        ("train.weighting={kind='uncertainty', period=5}", "period has no effect with kind = 'uncertainty'"),
        ("train.ema=1", "train.ema.decay: Input should be less than 1"),
        ("train.ema=0", "train.ema.decay: Input should be greater than 0"),
        ("train.stop={metric='validation/auk'}", "must be validation/ and one of auc"),
        ("train.stop={metric='validation/auc'}", "train.stop measures the validation split at each checkpoint"),
        ("checkpoint.best='stop'", "means the metric of train.stop, which is not set"),
        ("objective.a={kind='regression', within='jrc'}", "it is for binary tasks"),
    ],
)
def test_refused(override, message, tmp_path):
    (tmp_path / "run.toml").write_text(BASE)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.toml", [override])


@pytest.mark.parametrize(
    "override",
    [
        "objective.a={kind='regression', loss='huber', delta=2.0}",
        "objective.a={kind='binary', within='jrc', within_weight=0.5}",
        "train.weighting='gradnorm'",
        "train.ema=0.99",
    ],
)
def test_what_is_written_is_read_again(override, tmp_path):
    (tmp_path / "run.toml").write_text(BASE)
    config = load_config(tmp_path / "run.toml", [override])
    assert RunConfig.model_validate(config_tree(config)) == config


def test_a_listwise_loss_needs_labels_of_at_least_0():
    assert RegressionSection(within="listwise").labels == "number >= 0"
    assert RegressionSection(within="pairwise").labels == "number"
