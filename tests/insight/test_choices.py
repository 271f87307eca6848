"""Figures, findings and pictures of models that choose experts of a pool, against plain loops."""

import numpy as np
import pytest
import torch

from home_dist.config.insight import RulesSection
from home_dist.insight.collector import names_of
from home_dist.insight.figures import figures
from home_dist.insight.report_inside import inside_sections
from home_dist.insight.rules import signs
from home_dist.insight.run_record import RunRecord
from home_dist.insight.sums import gradients, statistics
from tests.insight.heads import make_head, make_rows, record_two_steps

OPTIONS = {"experts": 6, "shared_choices": 2, "task_choices": 1}


def measured(head, anatomy, rows):
    sums = statistics(head, anatomy, rows[0]) | gradients(head, anatomy, *rows)
    return figures({name: value.double() for name, value in sums.items()}, anatomy, head.features.columns())


def test_figures_of_choices_against_loops():
    head, anatomy, _ = make_head("smes", **OPTIONS)
    rows = make_rows(head, 40)
    found = measured(head, anatomy, rows)
    scores = head.model.gates.scores(rows[0]).detach()
    chosen = head.model._choose(scores, scores.softmax(-1)).tolist()
    tasks, samples = len(chosen), range(40)
    for e in range(6):
        assert found["0.use"][e] == sum(any(e in chosen[k][b] for k in range(tasks)) for b in samples) / 40
        for k in range(tasks):
            assert found["0.load"][k, e] == pytest.approx(sum(e in chosen[k][b] for b in samples) / 40)
    for k in range(tasks):
        for other in range(tasks):
            same = sum(len({*chosen[k][b]} & {*chosen[other][b]}) for b in samples) / (3 * 40)
            assert found["0.overlap"][k, other] == pytest.approx(same)
    weights = found["0.weight"]
    assert weights.sum(1) == pytest.approx(np.ones(tasks))
    assert (found["0.task_gradient"][:, found["0.use"] == 0] == 0).all()


def rules_of(head, anatomy, tasks, rows) -> dict[str, list[str]]:
    found = measured(head, anatomy, rows)
    told: dict[str, list[str]] = {}
    for sign in signs(found, names_of(anatomy, tasks, list(head.features.columns())), RulesSection()):
        told.setdefault(sign.rule, []).append(f"{sign.where}: {sign.what} {sign.advice}")
    return told


def test_an_expert_that_none_chooses_and_one_that_all_choose_are_found():
    head, anatomy, tasks = make_head("smes", **OPTIONS)
    rows = make_rows(head, 200)
    told = rules_of(head, anatomy, tasks, rows)
    assert told.keys().isdisjoint({"idle", "crowded", "degradation"})
    with torch.no_grad():
        rows[0][:, 0] = 1
        head.model.gates.weight[:, 4, 0] = -100
        head.model.gates.weight[:, 2, 0] = 100
    told = rules_of(head, anatomy, tasks, rows)
    [idle], [crowded] = told["idle"], told["crowded"]
    assert "shared 4: never chosen, 1 of 6 experts" in idle
    assert "model.balance" in idle
    assert "shared 2 is chosen for 100% of all samples and tasks" in crowded


def test_where_all_experts_are_chosen_none_is_crowded():
    head, anatomy, tasks = make_head("smes", experts=3, shared_choices=2, task_choices=1)
    assert "crowded" not in rules_of(head, anatomy, tasks, make_rows(head, 50))


def test_the_report_shows_choices(tmp_path):
    record_two_steps(tmp_path, "smes")
    [gates] = [s for s in inside_sections([RunRecord.open(tmp_path)]) if s.anchor == "gates"]
    chose = "share of samples for which a task chose an expert at step"
    for shown in (f"{chose} 20", f"{chose} 10", "use each expert over steps", "choices that are the same experts"):
        assert shown in gates.body
    (tmp_path / "other").mkdir()
    record_two_steps(tmp_path / "other", "mmoe")
    [gates] = [s for s in inside_sections([RunRecord.open(tmp_path / "other")]) if s.anchor == "gates"]
    assert chose not in gates.body
