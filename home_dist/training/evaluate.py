"""`home-dist evaluate`, as every rank runs it."""

from pathlib import Path

from home_dist.config import RunConfig
from home_dist.data.inputs import open_inputs
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import ConfigError
from home_dist.evaluation.split import evaluate_splits
from home_dist.screen import Screen
from home_dist.training.bad_row_report import BadRowReport
from home_dist.training.build import build
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.of_run import find
from home_dist.training.opening import detected, kernel_taken
from home_dist.training.run_folder import RunFolder


def evaluate_run(run_dir: Path, checkpoint: Path | None, splits: tuple[str, ...], ranks: Ranks) -> None:
    """Evaluates the given checkpoint, or the run's newest, on the splits (default: validation and test). Raises UserError."""
    screen = Screen(ranks.first)
    folder = RunFolder(run_dir)
    config, schema = together(folder.open)
    splits = together(lambda: _splits_asked_for(folder, config, splits))
    screen.say(together(lambda: detected(ranks, config.kernel)))
    chosen = together(lambda: find(checkpoint or run_dir))
    inputs = together(lambda: open_inputs(config, schema, splits))
    built = together(lambda: build(inputs, ranks))
    screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
    state = load(chosen, built.model, None)
    screen.say(f"checkpoint: {chosen}, step {state.step:,}")
    bad_rows = BadRowReport(ranks, screen)
    evaluate_splits(inputs, tuple(inputs.files), built.model, ranks, screen, bad_rows, state.step)


def _splits_asked_for(folder: RunFolder, config: RunConfig, asked: tuple[str, ...]) -> tuple[str, ...]:
    """`asked`, or by default the run's validation and test. Raises ConfigError for splits that the run does not have."""
    default = tuple(s for s in ("validation", "test") if getattr(config.data, s))
    if not asked and not default:
        raise ConfigError(
            f"{folder.config}: data.validation and data.test are empty, so that there is nothing to evaluate. Name a split's "
            "folder there, or evaluate on what was trained on, with --split train."
        )
    for split in asked:
        if not getattr(config.data, split):
            raise ConfigError(f"{folder.config}: data.{split} is empty. Name that split's folder there, or leave --split out.")
    return asked or default
