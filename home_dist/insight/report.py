"""`home-dist inspect`: a run, or two side by side, as one HTML page. Findings first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

from home_dist.config import config_text, config_tree
from home_dist.errors import ConfigError
from home_dist.files.whole import write_whole
from home_dist.insight import plots
from home_dist.insight.clock import PARTS
from home_dist.insight.findings import Finding
from home_dist.insight.page import PageSection, grid, page, picture, table
from home_dist.insight.report_evaluation import calibration_sections, evaluation_sections, shown_number
from home_dist.insight.report_inside import inside_sections
from home_dist.insight.report_validations import validation_sections
from home_dist.insight.rules import Sign
from home_dist.insight.run_figures import mean_defined
from home_dist.insight.run_names import names_apart
from home_dist.insight.run_record import RunRecord


def write_report(path: Path, other: Path | None, against: Sequence[Path], out: Path) -> Path:
    """Writes the report of run folder `path`, compared with run `other`; against: runs of single tasks. Raises ConfigError for
    folders without a run, for a run without records, and where `out` cannot be written."""
    runs = [RunRecord.open(p) for p in (path, *([other] if other else []))]
    alone = [RunRecord.open(p) for p in against]
    if not (runs[0].evaluation or runs[0].records or runs[0].curves):
        raise ConfigError(
            f"{path}: the run has recorded nothing yet. Look again when it has trained insight.every_steps steps."
        )
    html = report(runs, alone)
    try:
        write_whole(out, html)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}. Choose another place with --out.") from None
    return out


def report(runs: Sequence[RunRecord], alone: Sequence[RunRecord] = ()) -> str:
    names = names_apart([run.path for run in runs], [config_tree(run.config) for run in runs])
    runs = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    first = runs[0]
    title = first.name if len(runs) == 1 else f"{first.name} compared with {runs[1].name}"
    sections = [_findings(runs, alone), *evaluation_sections(runs), *_slices(runs), _curves(runs), *validation_sections(runs)]
    sections += calibration_sections(runs)
    sections += inside_sections(runs)
    sections.append(_settings(runs))
    groups = ", ".join(first.schema.groups)
    subtitle = f"{first.config.model.kind} on {first.config.data.shown} · {len(first.tasks)} tasks in groups {groups}"
    return page(title, subtitle, _facts(runs, alone), [s for s in sections if s.body])


def _facts(runs: Sequence[RunRecord], alone: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        yield f"{prefix}steps", f"{run.steps:,}"
        findings = run.findings(list(alone))
        yield f"{prefix}findings", str(len(findings)) if findings or run.looked_at else "not looked at"
        split = next(iter(run.splits), None)
        if split:
            for name, label in (("auc", "AUC"), ("gauc", "GAUC"), ("xauc", "XAUC"), ("accuracy", "accuracy")):
                value = run.mean(split, name)
                if not math.isnan(value):
                    yield f"{prefix}mean {label}, {split}", shown_number(value)


def _findings(runs: Sequence[RunRecord], alone: Sequence[RunRecord]) -> PageSection:
    parts = []
    for run in runs:
        findings = run.findings(list(alone))
        if len(runs) > 1:
            parts.append(f"<h3>{_key(run, runs)}{escape(run.name)}</h3>")
        if run.names is None:
            parts.append('<div class="quiet">Not looked at: insight.every_steps is 0.</div>')
        elif not run.looked_at:
            parts.append('<div class="quiet">Not looked at yet: no step of insight.every_steps has been reached.</div>')
        elif not findings:
            looked = f"{len(run.records)} records of experts and gates, {len(run.tables)} of embedding tables"
            parts.append(f'<div class="none">Nothing found in {looked}.</div>')
        latest = run.records[-1].step if run.records else 0
        parts += [_card(finding, latest) for finding in findings]
    about = "Signs of failure that lasted, by the rules and thresholds of [insight.rules]. Those that have gone since are grey."
    return PageSection("findings", "Findings", about, "".join(parts))


def _card(finding: Finding, latest: int) -> str:
    sign: Sign = finding.sign
    of_experts = sign.rule in ("collapse", "degradation", "underfitting", "identical", "constant")
    past = of_experts and finding.last < latest
    until = f" to {finding.last:,}" if past else ""
    kind = "finding past" if past else "finding"
    return (
        f'<div class="{kind}"><b>{escape(sign.rule.capitalize())} at {escape(sign.where)}</b>{escape(sign.what)}'
        f'<div class="soft">since step {finding.since:,}{until} · measured {sign.value:.3g}, threshold {sign.threshold:.3g}'
        f"</div><div>Try: {escape(sign.advice)}.</div></div>"
    )


def _slices(runs: Sequence[RunRecord]) -> Iterator[PageSection]:
    run = runs[0]
    split = next((s for s in run.splits if s in run.evaluation.get("slices", {})), None)
    if split is None:
        return
    body = ""
    entries = run.evaluation["slices"][split]
    for feature in dict.fromkeys(e["feature"] for e in entries):
        rows = []
        for entry in (e for e in entries if e["feature"] == feature):
            shown = ("auc", "gauc", "log_loss", "calibration")
            means = [shown_number(mean_defined(t.get(name, math.nan) for t in entry["tasks"])) for name in shown]
            rows.append([str(entry["value"]), f"{entry['samples']:,}", *means])
        body += f"<h3>{escape(feature)}</h3>" + table([feature, "samples", "AUC", "GAUC", "log loss", "calibration"], rows)
    about = (
        f"Means over tasks for which they are defined, of {run.name} on {split}, by value (id or bucket) of a feature. Each "
        f"task's are in evaluation.json."
    )
    yield PageSection("slices", "Slices", about, body)


def _curves(runs: Sequence[RunRecord]) -> PageSection:
    first, parts = runs[0], []
    for task in first.tasks:
        shown: list[plots.Line] = []
        for run in runs:
            points = [c for c in run.curves if task in c["task_losses"]]
            if points:
                shown.append((run.name, [c["step"] for c in points], [c["task_losses"][task] for c in points]))
        if shown:
            parts.append(picture(plots.lines(task, shown, plots.RUN_COLOURS), f"loss of {task} over steps"))
    if first.curves:
        for name in first.curves[-1].get("running", {}):
            shown = []
            for task in first.tasks:
                points = [c for c in first.curves if not math.isnan(c.get("running", {}).get(name, {}).get(task, math.nan))]
                if points:
                    shown.append((task, [c["step"] for c in points], [c["running"][name][task] for c in points]))
            if shown:
                title = f"{name.replace('_', ' ').replace('auc', 'AUC')} in training"
                parts.append(picture(plots.lines(title, shown), f"{title}, over steps"))
        for name in first.curves[-1]["auxiliary"]:
            points = [c for c in first.curves if name in c["auxiliary"]]
            line = (first.name, [c["step"] for c in points], [c["auxiliary"][name] for c in points])
            parts.append(picture(plots.lines(name, [line]), f"{name} over steps"))
        rates = [(r.name, [c["step"] for c in r.curves], [c["samples_per_second"] for c in r.curves]) for r in runs if r.curves]
        parts.append(picture(plots.lines("samples/s, all ranks", rates, plots.RUN_COLOURS, low=0), "samples per second"))
        steps = [c["step"] for c in first.curves]
        shares = {
            "computing": [max(0.0, 1 - c["waiting"] - c["insight"]) for c in first.curves],
            "waiting for data": [c["waiting"] for c in first.curves],
            "insight": [c["insight"] for c in first.curves],
        }
        parts.append(picture(plots.time_shares("where the time goes", steps, shares), "share of time per step"))
        parts += _breakdown(first)
    about = (
        "Each task's training loss, mean over the steps between two lines of progress, and running metrics of the samples in "
        "between, as the model saw them before it learnt from them. Parts of a step: see home_dist/insight/clock.py."
    )
    return PageSection("curves", "Curves", about, grid(parts) if parts else "")


def _breakdown(run: RunRecord) -> list[str]:
    """Parts of the sampled steps: shares of time as a picture, medians as a table."""
    timed = [(r.step, r.figures["seconds"]) for r in run.records if "seconds" in r.figures]
    timed = [(step, seconds) for step, seconds in timed if np.isfinite(seconds).all()]
    if not timed:
        return []
    steps, seconds = [step for step, _ in timed], np.stack([by_part for _, by_part in timed])
    shares = seconds / seconds.sum(1, keepdims=True)
    shown = {part: shares[:, n].tolist() for n, part in enumerate(PARTS)}
    medians = np.median(seconds, 0)
    rows = [[part, f"{1000 * x:.1f}", f"{x / medians.sum():.0%}"] for part, x in zip(PARTS, medians, strict=True)]
    return [
        picture(plots.time_shares("parts of a step", steps, shown), "share of time by part of a step"),
        table(["part of a step", "ms, median", "share"], rows),
    ]


def _settings(runs: Sequence[RunRecord]) -> PageSection:
    texts = ""
    for run in runs:
        name = escape(f"{run.name}: " * (len(runs) > 1) + str(run.path / "config.toml"))
        text = escape(config_text(run.config))
        texts += f"<details><summary>{name}</summary><pre>{text}</pre></details>"
    return PageSection("settings", "Settings", "", texts)


def _key(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    return f'<span class="key" style="background:{plots.RUN_COLOURS[list(runs).index(run)]}"></span>'
