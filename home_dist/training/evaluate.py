"""`home-dist evaluate`, as every rank runs it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from home_dist.config import RunConfig
from home_dist.config.stopping import averages_wanted
from home_dist.data.files import joined
from home_dist.data.inputs import open_inputs
from home_dist.distributed.ranks import Ranks, together
from home_dist.errors import ConfigError
from home_dist.evaluation.record import figures_tree, write_figures
from home_dist.evaluation.split import evaluate_splits
from home_dist.files.listing import is_there
from home_dist.files.places import join, without_secrets
from home_dist.schema.meaning import fingerprint
from home_dist.screen import Screen
from home_dist.training.bad_row_report import BadRowReport
from home_dist.training.build import build
from home_dist.training.checkpoint.loading import load
from home_dist.training.checkpoint.of_run import find
from home_dist.training.opening import detected, kernel_taken
from home_dist.training.run_folder import RunFolder

_SPLITS = ("train", "validation", "test")


def evaluate_run(
    run_dir: Path,
    checkpoint: Path | None,
    splits: tuple[str, ...],
    ranks: Ranks,
    data: str | None = None,
    pooled: bool = False,
    out: Path | None = None,
    averaged: bool | None = None,
) -> dict[str, Any]:
    """Evaluates the given checkpoint, or the run's newest, on the splits (default: validation and test).

    data: folder or URL of other data; by default all of its splits are read. pooled: measures the splits as one. out: file for
    the figures. averaged: with the averages of dense parameters, by default as `train.ema` says. Returns the figures, as
    evaluation.json has them. Raises UserError.
    """
    screen = Screen(ranks.first)
    folder = RunFolder(run_dir)
    config, schema = together(folder.open)
    averages = together(lambda: averages_wanted(config, averaged))
    splits = together(lambda: _splits_asked_for(folder, config, splits, data))
    screen.say(together(lambda: detected(ranks, config.kernel)))
    chosen = together(lambda: find(checkpoint or run_dir))
    inputs = together(lambda: open_inputs(config, schema, splits, folder.recorded_vocabularies(), data, trains=False))
    if pooled:
        inputs = replace(inputs, files={"+".join(inputs.files): joined(list(inputs.files.values()))})
    built = together(lambda: build(inputs, ranks, loaded=True))
    screen.say_if(kernel_taken(ranks, config.kernel, built.kernel))
    state = load(chosen, built.model, None, fingerprint(schema))
    screen.say(f"checkpoint: {chosen}, step {state.step:,}")
    bad_rows = BadRowReport(ranks, screen)
    with built.averaged(averages):
        evaluations = evaluate_splits(inputs, tuple(inputs.files), built, ranks, screen, bad_rows, state.step)
    figures = figures_tree(evaluations, state.step, state.samples)
    if out is not None:
        together(lambda: write_figures(out, figures) if ranks.first else None)
        screen.say(f"figures: {out}")
    return figures


def _splits_asked_for(folder: RunFolder, config: RunConfig, asked: tuple[str, ...], data: str | None) -> tuple[str, ...]:
    """`asked`, or by default the run's validation and test, or those that other data has. Raises ConfigError for splits that
    the run does not have."""
    if data is not None and not asked:
        places = {s: join(data, getattr(config.data, s) or s) for s in _SPLITS}
        asked = tuple(s for s, place in places.items() if is_there(place))
        if not asked:
            shown = without_secrets(data)
            raise ConfigError(f"{shown}: holds none of the run's splits ({', '.join(places)}). Name another folder.")
    if data is not None:
        return asked
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
