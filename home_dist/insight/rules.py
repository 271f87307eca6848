"""The rules by which a record tells a failure. Thresholds are `[insight.rules]` of a run's configuration.

| rule | holds when | what HoME has against it |
|---|---|---|
| collapse | the experts of a bank differ in standard deviation by more than `collapse_spread`, or an expert's outputs are zero in a share of at least `collapse_zeros`, or one expert makes up `collapse_weight` of a gate's mixture that could be of several | normalised experts with Swish (model.expert_norm) |
| degradation | of the weights that gates give to a shared expert, a share of `degradation_share` comes from one gate | experts of groups behind a hierarchy mask |
| underfitting | a sparse task's own experts (at most `sparse_rate` positives) contribute less than `underfitting_ratio` of what shared ones do, each, and get less than that ratio of the gradient | self gates |
| identical | two experts of a bank put out the same, up to `identical_distance` | feature gates: experts of other groups read other inputs |
| constant | a gate's weights do not depend on the sample: standard deviations under `constant_std` | |
| dead rows | a share of `dead_rows` of a table's rows was never looked up in an epoch | |
| exploding | a table's trained rows are `exploding_growth` times as large as they began; entries of a table or outputs of experts are infinite or NaN | |
| negative transfer | a task's AUC is `negative_transfer` below that of its single-task run | all four parts |
"""  # noqa: E501

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from home_dist.config.insight import RulesSection
from home_dist.insight.store import Figures, Names, PartNames
from home_dist.insight.table_figures import TableFigures

_TINY = 1e-30
_FULL = 0.9  # of a table's rows: fewer are worth a change

NORMALISE = "model.expert_norm = true: normalised experts keep one scale, and Swish passes what ReLU cuts to zero"
OWN_GROUPS = "model.kind = home: experts of task groups behind a hierarchy mask leave the shared ones to what all tasks need"
SELF_GATE = (
    "model.self_gate = true (HoME): own experts then get gradient past the main gate; or more weight, train.task_weights"
)

DIVERGED = "a lower train.lr, train.clip_norm, or train.warmup_steps, from an earlier checkpoint"


@dataclass(frozen=True)
class Sign:
    """A rule that holds in one record."""

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
    """What a record tells of experts and gates."""
    found: list[Sign] = []
    for n, part in enumerate(names.parts):
        own = {key.partition(".")[2]: value for key, value in figures.items() if key.startswith(f"{n}.")}
        broken = np.flatnonzero(~np.isfinite(own["std"]))
        if len(broken):
            what = f"outputs of {_listed(part.experts, broken)} are infinite or NaN"
            found.append(Sign("exploding", _label(part), what, float(len(broken)), 0, DIVERGED))
            continue  # nothing else can be told of what is no number
        found += _scale(part, own, rules)
        found += _identical(part, own, rules)
        if part.gates:
            found += _one_sided(part, own, rules)
            found += _constant(part, own, rules)
            found += _degradation(part, own, rules)
        if part.gates and "positives" in figures:
            found += _underfitting(part, own, figures["positives"], names, rules)
    return found


def table_signs(tables: list[TableFigures], epoch_over: bool, rules: RulesSection) -> Iterator[Sign]:
    for table in tables:
        where = f"table {table.table}"
        if epoch_over and table.untouched >= rules.dead_rows:
            what = f"{table.untouched:.0%} of {table.rows:,} rows were never looked up"
            yield Sign("dead rows", where, what, table.untouched, rules.dead_rows, _fewer_rows(table))
        if table.broken:
            what = f"{table.broken:,} entries are infinite or NaN"
            yield Sign("exploding", where, what, float(table.broken), 0, "a lower embedding.lr, from an earlier checkpoint")
        elif table.growth > rules.exploding_growth:
            what = (
                f"trained rows are {table.growth:,.0f} times as large as they began; the largest entry is {table.largest:.3g}"
            )
            advice = "a lower embedding.lr"
            yield Sign("exploding", where, what, table.growth, rules.exploding_growth, advice)


def transfer_signs(auc: dict[str, float], alone: dict[str, float], rules: RulesSection) -> Iterator[Sign]:
    """auc: by task; alone: of runs of the task alone."""
    for task, value in auc.items():
        lost = alone.get(task, np.nan) - value
        if lost > rules.negative_transfer:
            what = f"AUC {value:.4f}; trained alone {alone[task]:.4f}"
            advice = f"{OWN_GROUPS}; or task {task} in a group of its own"
            yield Sign("negative transfer", f"task {task}", what, lost, rules.negative_transfer, advice)


def _scale(part: PartNames, own: Figures, rules: RulesSection) -> Iterator[Sign]:
    zeros = np.flatnonzero(own["zero_rate"] >= rules.collapse_zeros)
    if len(zeros):
        worst = zeros[np.argmax(own["zero_rate"][zeros])]
        what = f"{_listed(part.experts, zeros)}: outputs are zero, {own['zero_rate'][worst]:.0%} of {part.experts[worst]}'s"
        yield Sign("collapse", _label(part), what, float(own["zero_rate"][worst]), rules.collapse_zeros, NORMALISE)
    # An expert that is all zeros is told of above.
    alive = np.flatnonzero(own["zero_rate"] < rules.collapse_zeros)
    if len(alive) > 1:
        std = own["std"][alive]
        low, high = alive[std.argmin()], alive[std.argmax()]
        spread = float(std.max() / max(std.min(), _TINY))
        if spread > rules.collapse_spread:
            what = f"outputs of {part.experts[high]} have {spread:,.0f} times the standard deviation of {part.experts[low]}'s"
            yield Sign("collapse", f"{_label(part)}, scale", what, spread, rules.collapse_spread, NORMALISE)


def _one_sided(part: PartNames, own: Figures, rules: RulesSection) -> Iterator[Sign]:
    for k, gate in enumerate(part.gates):
        seen = np.flatnonzero(part.sees[k])
        if len(seen) < 2:
            continue
        share = own["contribution"][k]
        top = int(share.argmax())
        if share[top] >= rules.collapse_weight:
            what = f"{share[top]:.0%} of what gate {gate} mixes is {part.experts[top]}, one of {len(seen)} experts that it sees"
            yield Sign("collapse", f"gate {gate}", what, float(share[top]), rules.collapse_weight, NORMALISE)


def _degradation(part: PartNames, own: Figures, rules: RulesSection) -> Iterator[Sign]:
    gates = [k for k, task in enumerate(part.gate_tasks) if task is not None]
    if not gates:  # a layer in between, whose gates feed groups
        gates = [k for k, gate in enumerate(part.gates) if not gate.endswith("shared")]
    for e, kind in enumerate(part.kinds):
        seeing = [k for k in gates if part.sees[k][e]]
        if kind != "shared" or len(seeing) < 2:
            continue
        weight = own["weight"][seeing, e]
        share = float(weight.max() / max(weight.sum(), _TINY))
        if share >= rules.degradation_share:
            gate = part.gates[seeing[int(weight.argmax())]]
            what = f"{share:.0%} of the gate weight that it gets is from gate {gate}, although {len(seeing)} gates see it"
            yield Sign("degradation", f"expert {part.experts[e]}", what, share, rules.degradation_share, OWN_GROUPS)


def _underfitting(part: PartNames, own: Figures, positives: np.ndarray, names: Names, rules: RulesSection) -> Iterator[Sign]:
    for k, task in enumerate(part.gate_tasks):
        if task is None or positives[task] > rules.sparse_rate:
            continue
        mine = [e for e, (kind, owner) in enumerate(_owners(part)) if (kind, owner) == ("task", names.tasks[task])]
        shared = [e for e, kind in enumerate(part.kinds) if kind == "shared" and part.sees[k][e]]
        if not mine or not shared:
            continue
        ratios = []
        for figure, row in (("contribution", k), ("task_gradient", task)):
            both = own[figure][row]
            ratios.append(float(both[mine].mean() / max(both[shared].mean(), _TINY)))
        if max(ratios) < rules.underfitting_ratio:
            what = (
                f"its own experts contribute {ratios[0]:.1%} of what shared ones do, each, and get {ratios[1]:.1%} of their "
                f"gradient; {positives[task]:.2%} of samples are positive"
            )
            yield Sign("underfitting", f"task {names.tasks[task]}", what, max(ratios), rules.underfitting_ratio, SELF_GATE)


def _identical(part: PartNames, own: Figures, rules: RulesSection) -> Iterator[Sign]:
    alive = own["zero_rate"] < 1
    near = (own["distance"] < rules.identical_distance) & alive[:, None] & alive[None]
    pairs = np.argwhere(np.triu(near, 1))
    if len(pairs):
        shown = ", ".join(f"{part.experts[i]} = {part.experts[j]}" for i, j in pairs[:3])
        more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        worst = float(own["distance"][pairs[:, 0], pairs[:, 1]].min())
        advice = "fewer experts; or different ones: model.feature_gate = true (HoME), model.dropout, another train.seed"
        yield Sign("identical", _label(part), f"same outputs: {shown}{more}", worst, rules.identical_distance, advice)


def _constant(part: PartNames, own: Figures, rules: RulesSection) -> Iterator[Sign]:
    for k, gate in enumerate(part.gates):
        varies = float(own["weight_std"][k].max())
        one_alone = own["weight"][k].max() >= rules.collapse_weight  # is a collapse
        if sum(part.sees[k]) > 1 and varies < rules.constant_std and not one_alone:
            what = f"gate {gate} gives all samples the same weights (largest standard deviation {varies:.1e})"
            advice = "features that tell samples apart (are they standardised?), a higher train.lr, or fewer experts"
            yield Sign("constant", f"gate {gate}", what, varies, rules.constant_std, advice)


def _label(part: PartNames) -> str:
    """The layer, from its experts' names."""
    prefix, slash, _ = part.experts[0].partition("/")
    return f"layer {prefix.removeprefix('layer ')}" if slash else "experts"


def _owners(part: PartNames) -> list[tuple[str, str]]:
    return list(zip(part.kinds, part.owners, strict=True))


def _listed(names: list[str], chosen: np.ndarray) -> str:
    shown = ", ".join(names[i] for i in chosen[:4])
    return f"{shown} and {len(chosen) - 4} more" if len(chosen) > 4 else shown


def _fewer_rows(table: TableFigures) -> str:
    """What to do about rows that were never looked up. keep_rows puts ids beyond the first rows on row 0, but where the
    run hashes ids into a table it hashes them anew."""
    key = f"embedding.tables.{table.table}.keep_rows"
    if table.hashed:
        ids = table.rows * -math.log(table.untouched)  # that leave so many rows free, if a hash spreads them
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
    """To two digits, upwards."""
    digits = 10 ** max(0, len(str(int(rows))) - 2)
    return max(1, -int(-rows // digits) * digits)
