"""DIEN, SIM and TWIN against loop references; and what holds for every encoder."""

import warnings
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from home_dist.planning.probe import LaunchCount
from home_dist.sequence.dien import Dien, DienSection, strangers
from home_dist.sequence.din import Din, DinSection
from home_dist.sequence.history import Encoder, EncoderInputs, History
from home_dist.sequence.jagged import best_within, dots_within, newest_within, softmax_within
from home_dist.sequence.sim import Sim, SimSection
from home_dist.sequence.twin import Twin, TwinSection
from tests.sequence import references

DE, DC, K = 5, 3, 2
LENGTHS = [4, 0, 1, 7, 3]
INPUTS = EncoderInputs(DE, DC, ("item", "category"), K)
SEARCH = {"name": "h", "heads": 2, "head_dim": 3}


def make(kind: str, most: int = 3, **changes: object) -> Encoder:
    torch.manual_seed(3)
    encoder: Encoder
    match kind:
        case "din":
            encoder = Din(DinSection(name="h", hidden=(6,)), INPUTS)
        case "dien":
            encoder = Dien(DienSection(name="h"), INPUTS)
        case "sim hard":
            encoder = Sim(SimSection(search="hard", **SEARCH, most=most), INPUTS)
        case "sim soft":
            encoder = Sim(SimSection(search_dim=4, search_weight=0.5, **SEARCH, most=most), INPUTS)
        case _:
            encoder = Twin(TwinSection(**{**SEARCH, "most": most, **changes}), INPUTS)
    return encoder.double()


KINDS = ("din", "dien", "sim hard", "sim soft", "twin")


@dataclass
class Drawn(History):
    leaves: tuple[torch.Tensor, ...] = ()
    """What the rest was made from: the table of items, contexts and targets. Gradients are compared there, as a table's row
    gets the sum over its events."""


def draw(lengths: list[int], seed: int = 0) -> Drawn:
    """Items with embeddings of their own, so that equal ids have equal events."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    items = torch.randn(6, DE, dtype=torch.float64, generator=generator, requires_grad=True)
    ids = torch.randint(0, 6, (n,), generator=generator)
    targets = torch.randint(0, 6, (len(lengths),), generator=generator)
    contexts = torch.randn(n, DC, dtype=torch.float64, generator=generator, requires_grad=True)
    of_target = torch.randn(len(lengths), DE, dtype=torch.float64, generator=generator, requires_grad=True)
    return Drawn(
        events=items[ids],
        contexts=contexts,
        targets=of_target,
        lengths=torch.tensor(lengths),
        event_ids={"item": ids, "category": ids % 3},
        target_ids={"item": targets, "category": targets % 3},
        leaves=(items, contexts, of_target),
    )


def compare(encoder: Encoder, history: Drawn, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    references.compare([*history.leaves, *encoder.parameters()], ours, theirs, (1e-9, 1e-10), (1e-8, 1e-9))


@pytest.mark.parametrize("search", ["hard", "soft"])
def test_sim(search):
    encoder, history = make(f"sim {search}"), draw(LENGTHS)
    found = encoder(history)
    vectors, logits = references.sim(encoder, history)
    if search == "hard":
        assert found.predictions == {}
        compare(encoder, history, [found.vector], [vectors])
    else:
        own, factor = found.predictions["search"]
        assert factor == 0.5
        compare(encoder, history, [found.vector, own], [vectors, logits])
        assert (encoder.eval()(history).vector == found.vector).all()
        assert encoder(history).predictions == {}


def test_twin():
    encoder, history = make("twin"), draw(LENGTHS)
    compare(encoder, history, [encoder(history).vector], [references.twin(encoder, history)])


def test_twin_with_a_search_per_head():
    """Heads see different events; with one head, or where all events are kept, both kinds of search are the same."""
    encoder, history = make("twin", most=2, search_per_head=True), draw(LENGTHS)
    found = encoder(history).vector
    compare(encoder, history, [found], [references.twin_per_head(encoder, history)])
    for changes in ({"most": 100}, {"most": 2, "heads": 1}):
        apart, together = make("twin", search_per_head=True, **changes), make("twin", **changes)
        together.load_state_dict(apart.state_dict())
        torch.testing.assert_close(apart(history).vector, together(history).vector, rtol=1e-10, atol=1e-12)
    together = make("twin", most=2)
    together.load_state_dict(encoder.state_dict())
    assert not torch.allclose(together(history).vector, found)


def test_twins_first_stage_finds_what_full_attention_weighs_most():
    """The consistency that the paper is about: one score in both stages."""
    encoder, history = make("twin", most=3), draw([9, 2, 6])
    everything = make("twin", most=100)
    everything.load_state_dict(encoder.state_dict())
    owners = history.owners
    full = everything.scores(history, owners, everything.attention.queries(history.targets)).mean(1)
    kept, counts = best_within(full, history.lengths, owners, 3)
    assert counts.tolist() == [3, 2, 3]
    alone = everything(history.take(kept, counts)).vector
    torch.testing.assert_close(encoder(history).vector, alone, rtol=1e-10, atol=1e-12)


def test_twin_projects_an_item_once(monkeypatch):
    encoder, history = make("twin"), draw([50, 60])
    rows = []
    encoder.attention.keys.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    encoder(history)
    assert max(rows) <= 6  # there are six items


def test_dien():
    encoder, history = make("dien"), draw(LENGTHS)
    torch.manual_seed(11)
    found = encoder(history)
    torch.manual_seed(11)
    owners = [sample for sample, n in enumerate(LENGTHS) for _ in range(n)]
    pairs = [t for t in range(len(owners) - 1) if owners[t] == owners[t + 1]]
    others = strangers(torch.tensor(owners), torch.tensor(pairs))[0].tolist()
    vectors, loss = references.dien(encoder, history, others)
    compare(encoder, history, [found.vector, found.auxiliary["next_event"]], [vectors, loss])
    assert encoder.eval()(history).auxiliary == {}


def test_dien_tells_the_next_event_from_one_of_another_user():
    """Against a loop: each event of all other users as often as the rest, none of the same user, and no pair without one."""
    users = torch.tensor([7, 7, 2, 2, 2, 7, -3])
    drawn = [strangers(users, torch.tensor([0, 3, 6])) for _ in range(3000)]
    for place, event in enumerate((0, 3, 6)):
        counts = torch.bincount(torch.stack([other for other, _ in drawn])[:, place], minlength=len(users))
        allowed = [t for t in range(len(users)) if users[t] != users[event]]
        assert [t for t in range(len(users)) if counts[t]] == allowed
        assert all(abs(int(counts[t]) - 3000 / len(allowed)) < 200 for t in allowed)
    other, there = strangers(torch.tensor([4, 4, 4]), torch.tensor([0, 1]))
    assert there.tolist() == [False, False]
    assert other.max() < 3


def test_dien_leaves_steps_out_that_have_no_other_user():
    encoder, history = make("dien"), draw(LENGTHS)
    history.users = torch.zeros(len(LENGTHS), dtype=torch.int64)
    assert float(encoder(history).auxiliary["next_event"]) == 0
    one = draw([4])
    assert float(encoder(one).auxiliary["next_event"]) == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), chosen=st.integers(0, 4), seed=st.integers(0, 5))
def test_a_samples_vector_does_not_depend_on_the_rest_of_the_batch(kind, lengths, chosen, seed):
    encoder, history = make(kind).eval(), draw(lengths, seed)
    chosen %= len(lengths)
    start = sum(lengths[:chosen])
    own = slice(start, start + lengths[chosen])
    alone = History(
        history.events[own],
        history.contexts[own],
        history.targets[chosen : chosen + 1],
        history.lengths[chosen : chosen + 1],
        {k: v[own] for k, v in history.event_ids.items()},
        {k: v[chosen : chosen + 1] for k, v in history.target_ids.items()},
    )
    whole = encoder(history).vector
    torch.testing.assert_close(whole[chosen], encoder(alone).vector[0], rtol=1e-9, atol=1e-11)
    if not lengths[chosen]:
        assert (whole[chosen] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_events_gives_zeros_and_a_gradient_to_every_parameter(kind):
    """Data-parallel ranks wait for the gradient of each parameter."""
    encoder = make(kind)
    found = encoder(draw([0, 0]))
    assert (found.vector == 0).all()
    loss = found.vector.sum() + sum(found.auxiliary.values()) + sum(p.sum() for p, _ in found.predictions.values())
    loss.backward()
    missing = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert not missing
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    most=st.integers(1, 8),
    skew=st.booleans(),
    seed=st.integers(0, 99),
)
def test_best_and_newest_within(lengths, most, skew, seed):
    if skew:
        lengths = [*lengths, 80]  # far longer than the others: too long for a rectangle
    scores = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed))
    owners = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    best, newest, at = [], [], 0
    for length in lengths:
        own = list(range(at, at + length))
        best += sorted(sorted(own, key=lambda t: -scores[t])[:most])
        newest += own[-most:]
        at += length
    kept = [min(n, most) for n in lengths]
    for found, expected in ((best_within(scores, torch.tensor(lengths), owners, most), best),
                            (newest_within(torch.tensor(lengths), owners, most), newest)):  # fmt: skip
        assert found[0].tolist() == expected
        assert found[1].tolist() == kept


def test_softmax_within_is_stable_and_sums_to_one():
    owners = torch.tensor([0, 0, 2, 2, 2])
    weights = softmax_within(torch.tensor([[1000.0], [1001.0], [-1e4], [0.0], [0.0]]), owners, 3)
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.2689, 0.7311, 0.0, 0.5, 0.5]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[300], [900, 0, 400], [500, 300, 700, 100, 2, 600, 0, 1200, 900], [3, 0, 5]])
def test_products_within_long_and_short_histories(lengths, dtype):
    lengths = torch.tensor(lengths)
    values = torch.randn(int(lengths.sum()), 6).to(dtype).requires_grad_()
    vectors = torch.randn(len(lengths), 6).to(dtype).requires_grad_()
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    found = dots_within(values, vectors, lengths, owners)
    doubles = [x.detach().double().requires_grad_() for x in (values, vectors)]
    expected = torch.stack([doubles[0][n] @ doubles[1][owner] for n, owner in enumerate(owners.tolist())])
    exact = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=exact, atol=exact)
    if dtype != torch.bfloat16:  # its sums over hundreds of events differ by more
        pull = torch.randn(len(owners), dtype=torch.float64)
        ours = torch.autograd.grad(found, (values, vectors), pull.to(dtype))
        theirs = torch.autograd.grad(expected, doubles, pull)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=exact, atol=10 * exact)


@pytest.mark.parametrize("kind", ["din", "sim hard", "sim soft", "twin"])
def test_the_number_of_operators_does_not_depend_on_lengths(kind):
    """DIEN's recurrence has steps by its nature; the others are products over all events."""
    counts = {}
    for mean in (20, 200, 300, 1000):
        history = draw([mean - 7, mean + 5, mean] * 40)
        for name in ("events", "contexts", "targets"):
            setattr(history, name, getattr(history, name).detach().float().requires_grad_())
        encoder = make(kind, most=10).float().train()
        with LaunchCount() as launched:
            encoder(history).vector.sum().backward()
        counts[mean] = launched.count
    assert max(counts.values()) <= 1.15 * min(counts.values()), counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_does_not_make_python_forget_which_warnings_it_has_shown(kind):
    encoder = make(kind)

    def step() -> None:
        found = encoder(draw(LENGTHS))
        sum(x.sum() for x in (found.vector, *(logits for logits, _ in found.predictions.values()))).backward()

    step()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(2):
            warnings.warn("each step warns", stacklevel=1)
            step()
    assert len(shown) == 1
