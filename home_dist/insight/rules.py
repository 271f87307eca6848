"""Rules that detect a failure in a record. Thresholds are `[insight.rules]` of a run's configuration.

| rule | holds when | HoME's remedy |
|---|---|---|
| collapse | the experts of a bank differ in standard deviation by more than `collapse_spread`, or a share of at least `collapse_zeros` of an expert's outputs is zero, or one expert makes up `collapse_weight` of the mixture of a gate that sees several | normalised experts with Swish (model.expert_norm) |
| degradation | one gate gives a share of `degradation_share` of all gates' weight on a shared expert | experts of groups behind a hierarchy mask |
| underfitting | a sparse task (at most `sparse_rate` positives): per expert, its own experts contribute less than `underfitting_ratio` of what shared experts contribute, and get less than that ratio of their gradient | self gates |
| identical | the outputs of two experts of a bank are closer than `identical_distance` | feature gates: experts of other groups read other inputs |
| idle | experts of a pool are used by a share of at most `idle_use` of the samples | |
| crowded | one expert of a pool is among the choices of a share of `crowded_load` of all samples and tasks, although gates choose few of many | |
| constant | a gate's weights do not depend on the sample: standard deviations under `constant_std` | |
| dead rows | a share of `dead_rows` of a table's rows was never looked up in an epoch | |
| exploding | a table's trained rows are more than `exploding_growth` times as large as initial ones; entries of a table or outputs of experts are infinite or NaN | |
| negative transfer | a task's AUC is more than `negative_transfer` below the AUC of its single-task run | all four parts |
"""  # noqa: E501

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from home_dist.config.insight import RulesSection
from home_dist.insight.store import Figures, Names, PartNames
from home_dist.insight.table_figures import TableFigures

_TINY = 1e-30
_FULL = 0.9  # share of a table's rows: advise a smaller table only if it needs fewer

NORMALISE = "model.expert_norm = true: normalised experts keep one scale, and Swish passes what ReLU cuts to zero"
OWN_GROUPS = "model.kind = home: experts of task groups behind a hierarchy mask leave the shared ones to what all tasks need"
SELF_GATE = (
    "model.self_gate = true (HoME): own experts then get gradient past the main gate; or more weight, train.task_weights"
)

BALANCE = "a larger model.balance, which spreads choices over the pool; or fewer model.experts"
DIVERGED = "a lower train.lr, train.clip_norm, or train.warmup_steps, from an earlier checkpoint"


@dataclass(frozen=True)
class Sign:
    """One rule's failure in one record."""

    rule: str
    where: str
    what: str
    """A sentence."""
    value: float
    threshold: float
    advice: str

    @property
    def key(self) -> tuple[str, str]:
        return self.rule, self.where


def signs(figures: Figures, names: Names, rules: RulesSection) -> list[Sign]:
    """Signs of experts and gates in one record."""
    all_signs: list[Sign] = []
    for n, part in enumerate(names.parts):
        part_figures = {key.partition(".")[2]: value for key, value in figures.items() if key.startswith(f"{n}.")}
        broken = np.flatnonzero(~np.isfinite(part_figures["std"]))
        if len(broken):
            text = f"outputs of {_listed(part.experts, broken)} are infinite or NaN"
            all_signs.append(Sign("exploding", _label(part), text, float(len(broken)), 0, DIVERGED))
            continue  # other rules need finite figures
        all_signs += _scale(part, part_figures, rules)
        all_signs += _identical(part, part_figures, rules)
        if part.gates:
            all_signs += _one_sided(part, part_figures, rules)
            all_signs += _constant(part, part_figures, rules)
            all_signs += _degradation(part, part_figures, rules)
            all_signs += _choices(part, part_figures, rules)
        if part.gates and "positives" in figures:
            all_signs += _underfitting(part, part_figures, figures["positives"], names, rules)
    return all_signs


def table_signs(tables: list[TableFigures], epoch_over: bool, rules: RulesSection) -> Iterator[Sign]:
    for table in tables:
        where = f"table {table.table}"
        if epoch_over and table.untouched >= rules.dead_rows and not table.given:
            text = f"{table.untouched:.0%} of {table.rows:,} rows were never looked up"
            yield Sign("dead rows", where, text, table.untouched, rules.dead_rows, _fewer_rows(table))
        if table.broken:
            text = f"{table.broken:,} entries are infinite or NaN"
            yield Sign("exploding", where, text, float(table.broken), 0, "a lower embedding.lr, from an earlier checkpoint")
        elif table.growth > rules.exploding_growth and not table.given:
            text = (
                f"trained rows are {table.growth:,.0f} times as large as they began; the largest entry is {table.largest:.3g}"
            )
            advice = "a lower embedding.lr"
            yield Sign("exploding", where, text, table.growth, rules.exploding_growth, advice)


def transfer_signs(auc: dict[str, float], alone: dict[str, float], rules: RulesSection) -> Iterator[Sign]:
    """auc: by task; alone: AUC of single-task runs, by task."""
    for task, value in auc.items():
        lost = alone.get(task, np.nan) - value
        if lost > rules.negative_transfer:
            text = f"AUC {value:.4f}; trained alone {alone[task]:.4f}"
            advice = f"{OWN_GROUPS}; or task {task} in a group of its own"
            yield Sign("negative transfer", f"task {task}", text, lost, rules.negative_transfer, advice)


def _scale(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    zeros = np.flatnonzero(figures["zero_rate"] >= rules.collapse_zeros)
    if len(zeros):
        worst = zeros[np.argmax(figures["zero_rate"][zeros])]
        text = f"{_listed(part.experts, zeros)}: outputs are zero, {figures['zero_rate'][worst]:.0%} of {part.experts[worst]}'s"
        yield Sign("collapse", _label(part), text, float(figures["zero_rate"][worst]), rules.collapse_zeros, NORMALISE)
    # Experts with too many zeros are already signs above.
    alive = np.flatnonzero(figures["zero_rate"] < rules.collapse_zeros)
    if len(alive) > 1:
        std = figures["std"][alive]
        low, high = alive[std.argmin()], alive[std.argmax()]
        spread = float(std.max() / max(std.min(), _TINY))
        if spread > rules.collapse_spread:
            text = f"outputs of {part.experts[high]} have {spread:,.0f} times the standard deviation of {part.experts[low]}'s"
            yield Sign("collapse", f"{_label(part)}, scale", text, spread, rules.collapse_spread, NORMALISE)


def _one_sided(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    for k, gate in enumerate(part.gates):
        seen = np.flatnonzero(part.sees[k])
        if len(seen) < 2:
            continue
        share = figures["contribution"][k]
        top = int(share.argmax())
        if share[top] >= rules.collapse_weight:
            text = f"{share[top]:.0%} of what gate {gate} mixes is {part.experts[top]}, one of {len(seen)} experts that it sees"
            yield Sign("collapse", f"gate {gate}", text, float(share[top]), rules.collapse_weight, NORMALISE)


def _degradation(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    if "load" in figures:  # an expert of a pool may well be one task's
        return
    gates = [k for k, task in enumerate(part.gate_tasks) if task is not None]
    if not gates:  # an inner layer, whose gates feed groups
        gates = [k for k, gate in enumerate(part.gates) if not gate.endswith("shared")]
    for e, kind in enumerate(part.kinds):
        seeing = [k for k in gates if part.sees[k][e]]
        if kind != "shared" or len(seeing) < 2:
            continue
        weight = figures["weight"][seeing, e]
        share = float(weight.max() / max(weight.sum(), _TINY))
        if share >= rules.degradation_share:
            gate = part.gates[seeing[int(weight.argmax())]]
            text = f"{share:.0%} of the gate weight that it gets is from gate {gate}, although {len(seeing)} gates see it"
            yield Sign("degradation", f"expert {part.experts[e]}", text, share, rules.degradation_share, OWN_GROUPS)


def _underfitting(
    part: PartNames, figures: Figures, positives: np.ndarray, names: Names, rules: RulesSection
) -> Iterator[Sign]:
    for k, task in enumerate(part.gate_tasks):
        if task is None or positives[task] > rules.sparse_rate:
            continue
        own = [e for e, (kind, owner) in enumerate(_owners(part)) if (kind, owner) == ("task", names.tasks[task])]
        shared = [e for e, kind in enumerate(part.kinds) if kind == "shared" and part.sees[k][e]]
        if not own or not shared:
            continue
        ratios = []
        for figure, row in (("contribution", k), ("task_gradient", task)):
            both = figures[figure][row]
            ratios.append(float(both[own].mean() / max(both[shared].mean(), _TINY)))
        if max(ratios) < rules.underfitting_ratio:
            text = (
                f"its own experts contribute {ratios[0]:.1%} of what shared ones do, each, and get {ratios[1]:.1%} of their "
                f"gradient; {positives[task]:.2%} of samples are positive"
            )
            yield Sign("underfitting", f"task {names.tasks[task]}", text, max(ratios), rules.underfitting_ratio, SELF_GATE)


def _identical(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    alive = figures["zero_rate"] < 1
    near = (figures["distance"] < rules.identical_distance) & alive[:, None] & alive[None]
    pairs = np.argwhere(np.triu(near, 1))
    if len(pairs):
        shown = ", ".join(f"{part.experts[i]} = {part.experts[j]}" for i, j in pairs[:3])
        more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        worst = float(figures["distance"][pairs[:, 0], pairs[:, 1]].min())
        advice = "fewer experts; or different ones: model.feature_gate = true (HoME), model.dropout, another train.seed"
        yield Sign("identical", _label(part), f"same outputs: {shown}{more}", worst, rules.identical_distance, advice)


def _choices(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    """Of gates that choose experts of a pool."""
    if "load" not in figures:
        return
    use, load = figures["use"], figures["load"].mean(0)
    idle = np.flatnonzero(use <= rules.idle_use)
    if len(idle):
        text = f"{_listed(part.experts, idle)}: never chosen, {len(idle)} of {len(use)} experts"
        yield Sign("idle", _label(part), text, float(use[idle].max()), rules.idle_use, BALANCE)
    top = int(load.argmax())
    if load[top] >= rules.crowded_load and figures["load"].sum(1).mean() < len(load) - 0.5:
        text = f"{part.experts[top]} is chosen for {load[top]:.0%} of all samples and tasks"
        yield Sign("crowded", f"expert {part.experts[top]}", text, float(load[top]), rules.crowded_load, BALANCE)


def _constant(part: PartNames, figures: Figures, rules: RulesSection) -> Iterator[Sign]:
    for k, gate in enumerate(part.gates):
        varies = float(figures["weight_std"][k].max())
        one_alone = figures["weight"][k].max() >= rules.collapse_weight  # collapse, not constant
        if sum(part.sees[k]) > 1 and varies < rules.constant_std and not one_alone:
            text = f"gate {gate} gives all samples the same weights (largest standard deviation {varies:.1e})"
            advice = "features that tell samples apart (are they standardised?), a higher train.lr, or fewer experts"
            yield Sign("constant", f"gate {gate}", text, varies, rules.constant_std, advice)


def _label(part: PartNames) -> str:
    """The layer's name, taken from its experts' names."""
    prefix, slash, _ = part.experts[0].partition("/")
    return f"layer {prefix.removeprefix('layer ')}" if slash else "experts"


def _owners(part: PartNames) -> list[tuple[str, str]]:
    return list(zip(part.kinds, part.owners, strict=True))


def _listed(names: list[str], chosen: np.ndarray) -> str:
    shown = ", ".join(names[i] for i in chosen[:4])
    return f"{shown} and {len(chosen) - 4} more" if len(chosen) > 4 else shown


def _fewer_rows(table: TableFigures) -> str:
    """Advice on rows that were never looked up. keep_rows maps ids beyond the first rows to row 0; if the run hashes ids
    into the table, keep_rows hashes them into fewer rows instead."""
    key = f"embedding.tables.{table.table}.keep_rows"
    if table.hashed:
        ids = table.rows * -math.log(table.untouched)  # distinct ids that a uniform hash needs to leave so many rows free
        if ids >= _FULL * table.rows:
            return "more data; rows that stay free keep hashed ids apart"
        return f"{key} = {max(2, _round(ids)):_}: some {_round(ids):,} ids came; a new run hashes them into so many rows"
    if table.used_to < 0 or table.used_to <= _FULL * table.rows:
        used = table.rows * (1 - table.untouched) if table.used_to < 0 else table.used_to
        return f"{key} = {max(1, _round(used)):_}, or more data"
    return (
        "fewer rows where the table's ids are made: a larger min_count, or fewer buckets of the hash. Its used rows lie "
        f"anywhere, so that {key} would put many of them on row 0"
    )


def _round(rows: float) -> int:
    """Rounds up to two significant digits."""
    digits = 10 ** max(0, len(str(int(rows))) - 2)
    return max(1, -int(-rows // digits) * digits)
