"""Each rule on a model that was made to fail in that way, and on models that learn well."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from home_dist.config.insight import RulesSection
from home_dist.config.model import MODELS
from home_dist.embeddings.collections import initialise
from home_dist.insight import collector
from home_dist.insight.figures import figures
from home_dist.insight.findings import Judge
from home_dist.insight.rules import signs, table_signs, transfer_signs
from home_dist.insight.store import StepRecord
from home_dist.insight.sums import gradients, statistics
from home_dist.insight.table_figures import TableFigures, table_figures
from tests.insight.heads import make_head, related_rows

RULES = RulesSection()


def names_of(head, anatomy, tasks):
    return collector.names_of(anatomy, tasks, list(head.features.columns()))


def figures_of(head, anatomy, rows):
    sums = statistics(head, anatomy, rows[0]) | gradients(head, anatomy, *rows)
    return figures({name: value.double() for name, value in sums.items()}, anatomy, head.features.columns())


def told(kind, plant, sparse=(), **model):
    """(rule, where) of what is found in a new model after `plant` was done to its last part."""
    head, anatomy, tasks = make_head(kind, **model)
    with torch.no_grad():
        plant(anatomy.parts[-1])
    found = signs(figures_of(head, anatomy, related_rows(head, sparse)), names_of(head, anatomy, tasks), RULES)
    for sign in found:
        assert sign.what
        assert sign.advice
    return {(s.rule, s.where) for s in found}, found


def prefer(part, gate, experts, by=30.0):
    """Gives a gate a bias towards some experts."""
    part.masked.weight[gate, :, 0] = 0
    part.masked.weight[gate, experts, 0] = by


def nothing(part):
    pass


@pytest.mark.parametrize("kind", list(MODELS))
def test_healthy_models_are_left_alone(kind):
    """Trained until they have learned something."""
    sizes = {"expert_hidden": [16], "expert_dim": 16} if kind != "tensor_factorization" else {}
    head, anatomy, tasks = make_head(kind, **sizes)
    v, dense, labels, weights = related_rows(head, rows=1000)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
    head.train()
    losses = []
    for _ in range(50):
        logits = head.logits(v, dense, None)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    found = signs(figures_of(head, anatomy, (v, dense, labels, weights)), names_of(head, anatomy, tasks), RULES)
    assert [str(s) for s in found] == []


def test_dead_experts():
    def plant(part):
        part.bank.biases[-1][1] = -1000

    found, [sign] = told("mmoe", plant, experts=4)
    assert found == {("collapse", "experts")}
    assert "shared 1" in sign.what
    assert sign.value == 1.0
    assert "expert_norm" in sign.advice


def test_experts_of_different_scale():
    def plant(part):
        part.bank.weights[-1][2] *= 1000

    found, _ = told("cgc", plant, task_experts=2)
    assert ("collapse", "experts, scale") in found


def test_normalised_experts_keep_their_scale():
    """The part of HoME that the advice names does cure it."""

    def plant(part):
        part.bank.weights[-1][2] *= 1000

    head, anatomy, tasks = make_head("home")
    rows = related_rows(head)
    head.train()
    with torch.no_grad():
        plant(anatomy.parts[0])
        for _ in range(80):  # running averages follow the batch
            head.model(rows[0])
    found = signs(figures_of(head, anatomy, rows), names_of(head, anatomy, tasks), RULES)
    assert [s for s in found if s.rule == "collapse"] == []


def test_a_gate_that_takes_one_expert():
    found, [sign] = told("mmoe", lambda part: prefer(part, 2, [1]), experts=4)
    assert found == {("collapse", "gate watch")}
    assert "shared 1" in sign.what


def test_a_large_weight_on_a_small_output_is_no_collapse():
    """Contribution counts, not weight."""

    def plant(part):
        part.masked.weight[0, :, :] = 0
        part.masked.weight[0, 1, 0] = 4.5  # a weight of 0.97
        part.bank.weights[-1][1] /= 30
        part.bank.biases[-1][1] /= 30

    found, _ = told("mmoe", plant, experts=4)
    assert ("collapse", "gate like") not in found


def test_a_shared_expert_of_one_task():
    def plant(part):
        shared = part.experts.index("shared 0")
        for gate in (0, 1):
            part.masked.weight[gate, shared, 0] = -30

    found, _ = told("cgc", plant, shared_experts=2)
    assert ("degradation", "expert shared 0") in found
    assert ("degradation", "expert shared 1") not in found
    assert ("degradation", "expert shared 0") not in told("cgc", nothing, shared_experts=2)[0]


def test_a_sparse_task_whose_own_experts_are_left_out():
    def plant(part):
        own, shared = part.experts.index("follow 0"), part.experts.index("shared 0")
        part.masked.weight[1, own, 0] = -6
        part.masked.weight[1, shared, 0] = 0

    found, signs_ = told("cgc", plant, sparse=[1], shared_experts=2)
    assert ("underfitting", "task follow") in found
    assert "self_gate" in next(s for s in signs_ if s.rule == "underfitting").advice
    assert ("underfitting", "task follow") not in told("cgc", plant, shared_experts=2)[0]  # not sparse
    assert ("underfitting", "task follow") not in told("cgc", nothing, sparse=[1], shared_experts=2)[0]


def test_identical_experts():
    def plant(part):
        for parameter in part.bank.parameters():
            parameter[3] = parameter[0]

    found, [sign] = told("mmoe", plant, experts=4)
    assert found == {("identical", "experts")}
    assert "shared 0 = shared 3" in sign.what


def test_a_constant_gate():
    def plant(part):
        part.masked.weight[0] = 0

    found, _ = told("home", plant)
    assert ("constant", "gate task/like") in found
    assert ("constant", "gate task/follow") not in found


def test_outputs_that_are_no_numbers():
    """They are told of, and no other rule stumbles over them."""

    def plant(part):
        part.bank.weights[0][0] = float("nan")
        part.bank.weights[0][1] = float("inf")

    found, [sign] = told("mmoe", plant, experts=4)
    assert found == {("exploding", "experts")}
    assert "shared 0" in sign.what
    assert told("cgc", plant)[0] == {("exploding", "experts")}


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_tables(one_rank):
    sizes = {"dead": 1000, "exploding": 400, "broken": 100, "healthy": 200}
    configs = [EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n]) for n, r in sizes.items()]
    tables = EmbeddingBagCollection(tables=configs)
    initialise(tables, 0.01, seed=3)
    untouched = {t.table: t for t in table_figures(tables, 0.01, 3)}
    assert {t.untouched for t in untouched.values()} == {1.0}
    assert {t.untouched for t in table_figures(tables, 0.01, 4)} == {0.0}  # values of another seed
    with torch.no_grad():
        weights = {name: tables.embedding_bags[name].weight for name in sizes}
        weights["dead"][:301] += 0.02
        weights["exploding"][:] *= 500
        weights["broken"][:] += 0.02
        weights["broken"][7, 2:4] = torch.tensor([float("nan"), float("inf")])
        weights["healthy"][20:] *= 20
    found = {t.table: t for t in table_figures(tables, 0.01, 3)}
    assert found["dead"].untouched == pytest.approx(0.699)
    assert found["healthy"].untouched == pytest.approx(0.1)
    trained = weights["healthy"][20:].detach()
    assert found["healthy"].size == pytest.approx(float(trained.square().mean().sqrt()), rel=1e-5)
    assert found["healthy"].largest == pytest.approx(float(trained.abs().max()), rel=1e-5)
    assert (found["broken"].broken, found["healthy"].broken) == (2, 0)
    told = {s.where: s for s in table_signs(list(found.values()), epoch_over=True, rules=RULES)}
    assert {(s.rule, s.where) for s in told.values()} == {
        ("dead rows", "table dead"),
        ("exploding", "table exploding"),
        ("exploding", "table broken"),
    }
    assert "keep_rows = 310" in told["table dead"].advice
    assert (found["dead"].used_to, found["healthy"].used_to, untouched["dead"].used_to) == (301, 200, 0)
    early = table_signs(list(found.values()), epoch_over=False, rules=RULES)
    assert {s.rule for s in early} == {"exploding"}


@pytest.mark.parametrize("hashed", [True, False])
def test_rows_that_a_hash_left_free_are_not_cut_off(one_rank, hashed):
    """Used rows lie anywhere: the first rows hold a part of them alone."""
    config = EmbeddingBagConfig(name="item", num_embeddings=1000, embedding_dim=8, feature_names=["item"])
    tables = EmbeddingBagCollection(tables=[config])
    initialise(tables, 0.01, seed=3)
    used = torch.randint(0, 1000, (400,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tables.embedding_bags["item"].weight[used] += 0.02
    [found] = table_figures(tables, 0.01, 3, {"item"} if hashed else ())
    [sign] = table_signs([found], epoch_over=True, rules=RULES)
    if not hashed:  # columns hold rows, which the pipeline hashed
        assert "keep_rows would put many of them on row 0" in sign.advice
        assert "keep_rows =" not in sign.advice
        return
    kept = int(sign.advice.partition("keep_rows = ")[2].partition(":")[0].replace("_", ""))
    assert kept == pytest.approx(400, rel=0.1)  # as many as ids came: the run hashes them anew
    [full] = table_signs([replace(found, untouched=0.5, rows=1000)], epoch_over=True, rules=replace_rules(0.3))
    assert "keep_rows" in full.advice
    [full] = table_signs([replace(found, untouched=0.38)], epoch_over=True, rules=replace_rules(0.3))
    assert full.advice == "more data; rows that stay free keep hashed ids apart"


def replace_rules(dead_rows):
    return RULES.model_copy(update={"dead_rows": dead_rows})


def test_negative_transfer():
    auc = {"like": 0.70, "follow": 0.65, "watch": 0.60, "other": 0.5}
    [sign] = transfer_signs(auc, {"like": 0.701, "follow": 0.66, "watch": 0.59}, RULES)
    assert (sign.rule, sign.where) == ("negative transfer", "task follow")
    assert sign.value == pytest.approx(0.01)
    assert list(transfer_signs({"like": float("nan")}, {"like": 0.7}, RULES)) == []


def record(names, step, zero):
    """A record of a model of two experts without gates, of which the first may be dead."""
    rate = np.array([1.0 if zero else 0.2, 0.3])
    return StepRecord(step, {"0.zero_rate": rate, "0.std": np.ones(2), "0.distance": np.ones((2, 2))})


def test_findings_are_told_once_and_know_since_when():
    head, anatomy, tasks = make_head("single_task")
    names = names_of(head, anatomy, tasks)
    names.parts[0].experts[2:] = []
    judge = Judge(names, RULES)
    assert judge.record(record(names, 100, zero=True)) == []  # may be chance
    assert judge.record(record(names, 200, zero=False)) == []
    assert judge.record(record(names, 300, zero=True)) == []
    [finding] = judge.record(record(names, 400, zero=True))
    assert (finding.since, finding.last, finding.sign.rule) == (300, 400, "collapse")
    assert "Since step 300. Try: model.expert_norm = true" in str(finding)
    assert judge.record(record(names, 500, zero=True)) == []
    judge.record(record(names, 600, zero=False))
    judge.record(record(names, 700, zero=True))
    assert judge.record(record(names, 800, zero=True)) == []  # it has been told
    [kept] = judge.findings()
    assert (kept.since, kept.last) == (300, 800)


def test_bad_tables_are_told_at_once():
    head, anatomy, tasks = make_head("home")
    judge = Judge(names_of(head, anatomy, tasks), RULES)
    table = TableFigures("video", 100, 0.1, 5.0, 9.0, 500.0, 0)
    given = replace(table, table="author", untouched=0.9, given=True)  # began with vectors of a file, which may be large
    [finding] = judge.tables(100, [table, given], epoch_over=True)
    assert (finding.sign.rule, finding.sign.where) == ("exploding", "table video")
    assert judge.tables(200, [table], epoch_over=True) == []
