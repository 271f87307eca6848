"""The configuration of a run: a file per section; reading TOML into sections, and writing it."""

from home_dist.config.checkpoint import CheckpointSection, WarmStartSection
from home_dist.config.data import DataSection
from home_dist.config.distributed import DistributedSection, ExchangeSection
from home_dist.config.embedding import EmbeddingSection, PretrainedSection, TableSection
from home_dist.config.insight import InsightSection
from home_dist.config.kernel import KernelSection
from home_dist.config.load import config_of_run, load_config, load_section, save_own_code
from home_dist.config.log import LogSection
from home_dist.config.metrics import MetricsSection
from home_dist.config.run_config import RunConfig
from home_dist.config.train import TrainSection
from home_dist.config.written import config_text, config_tree, save_config, without_keys

__all__ = [
    "CheckpointSection",
    "DataSection",
    "DistributedSection",
    "EmbeddingSection",
    "ExchangeSection",
    "InsightSection",
    "KernelSection",
    "LogSection",
    "MetricsSection",
    "PretrainedSection",
    "RunConfig",
    "TableSection",
    "TrainSection",
    "WarmStartSection",
    "config_of_run",
    "config_text",
    "config_tree",
    "load_config",
    "load_section",
    "save_config",
    "save_own_code",
    "without_keys",
]
