"""Encoders as loops over samples, heads and events in float64, written from the papers' equations."""

import torch

Vectors = list[torch.Tensor]


def split(history) -> list[dict]:
    """Per sample: events, contexts, target and ids as lists."""
    samples, at = [], 0
    for b, length in enumerate(history.lengths.tolist()):
        own = range(at, at + length)
        samples.append(
            {
                "e": [history.events[t] for t in own],
                "c": [history.contexts[t] for t in own],
                "q": history.targets[b],
                "ids": {k: [int(v[t]) for t in own] for k, v in history.event_ids.items()},
                "target": {k: int(v[b]) for k, v in history.target_ids.items()},
            }
        )
        at += length
    return samples


def softmax(scores: Vectors) -> Vectors:
    total = sum(torch.exp(s) for s in scores)
    return [torch.exp(s) / total for s in scores]


def rows_of_head(linear, head: int, dim: int) -> torch.Tensor:
    return linear.weight[head * dim : (head + 1) * dim]


def attend(attention, sample: dict, keys: Vectors, biases: list | None = None) -> torch.Tensor:
    """Multi-head target attention; keys: what the key matrix multiplies; biases: per event, per head."""
    if not keys:
        return torch.zeros(attention.out_dim, dtype=torch.float64)
    heads, dim = [], attention.head_dim
    for h in range(attention.heads):
        query = rows_of_head(attention.queries, h, dim) @ sample["q"]
        scores = [(rows_of_head(attention.keys, h, dim) @ k) @ query / dim**0.5 for k in keys]
        if biases is not None:
            scores = [s + b[h] for s, b in zip(scores, biases, strict=True)]
        values = [
            rows_of_head(attention.values, h, dim) @ torch.cat([e, c]) for e, c in zip(sample["e"], sample["c"], strict=True)
        ]
        heads.append(sum(w * v for w, v in zip(softmax(scores), values, strict=True)))
    return torch.cat(heads)


def chosen_of(sample: dict, chosen: list[int]) -> dict:
    return {**sample, "e": [sample["e"][t] for t in chosen], "c": [sample["c"][t] for t in chosen]}


def sim(model, history) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, out_dim), and the search's logits (B, K)."""
    vectors, logits = [], []
    for sample in split(history):
        events = range(len(sample["e"]))
        if model.search == "hard":
            same = [t for t in events if sample["ids"][model.category][t] == sample["target"][model.category]]
            chosen = same[-model.most :]
        else:
            r = [
                float((model.of_target.weight @ sample["q"]).detach() @ (model.of_event.weight @ e).detach())
                for e in sample["e"]
            ]
            chosen = sorted(sorted(events, key=lambda t, r=r: -r[t])[: model.most])
            pooled = torch.zeros_like(sample["q"])
            for e in sample["e"]:
                score = (model.of_target.weight @ sample["q"].detach()) @ (model.of_event.weight @ e.detach())
                pooled = pooled + score * e.detach()
            pooled = pooled / max(1, len(events)) ** 0.5
            first, _, last = model.predictor
            hidden = torch.clamp(first.weight @ torch.cat([pooled, sample["q"].detach()]) + first.bias, min=0)
            logits.append(last.weight @ hidden + last.bias)
        own = chosen_of(sample, chosen)
        vectors.append(attend(model.attention, own, [torch.cat([e, c]) for e, c in zip(own["e"], own["c"], strict=True)]))
    return torch.stack(vectors), torch.stack(logits) if logits else None


def twin(model, history) -> torch.Tensor:
    """By full scores of all events: their k best are what attention may see."""
    vectors = []
    for sample in split(history):
        heads, dim = model.attention.heads, model.attention.head_dim
        biases = [model.bias.weight @ c for c in sample["c"]]
        means = []
        for e, b in zip(sample["e"], biases, strict=True):
            of_heads = []
            for h in range(heads):
                query = rows_of_head(model.attention.queries, h, dim) @ sample["q"]
                key = rows_of_head(model.attention.keys, h, dim) @ e
                of_heads.append(float((key @ query / dim**0.5 + b[h]).detach()))
            means.append(sum(of_heads) / heads)
        chosen = sorted(sorted(range(len(means)), key=lambda t, m=means: -m[t])[: model.most])
        own = chosen_of(sample, chosen)
        vectors.append(attend(model.attention, own, own["e"], [biases[t] for t in chosen]))
    return torch.stack(vectors)


def twin_per_head(model, history) -> torch.Tensor:
    """Each head attends to the events that it scores highest."""
    heads, dim, vectors = model.attention.heads, model.attention.head_dim, []
    for sample in split(history):
        of_heads = []
        for h in range(heads):
            query = rows_of_head(model.attention.queries, h, dim) @ sample["q"]
            scores = [
                rows_of_head(model.attention.keys, h, dim) @ e @ query / dim**0.5 + (model.bias.weight @ c)[h]
                for e, c in zip(sample["e"], sample["c"], strict=True)
            ]
            best = sorted(range(len(scores)), key=lambda t, s=scores: -float(s[t].detach()))[: model.most]
            weights = torch.softmax(torch.stack([scores[t] for t in best]), 0) if best else []
            values = [rows_of_head(model.attention.values, h, dim) @ torch.cat([sample["e"][t], sample["c"][t]]) for t in best]
            of_heads.append(sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros(dim, dtype=torch.float64)))
        vectors.append(torch.cat(of_heads))
    return torch.stack(vectors)


def dien(model, history, others: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, out_dim), and the auxiliary loss; others: per pair, in order, the event drawn against the next one, -1 for none."""
    gru, width = model.extractor, model.out_dim
    everything = [torch.cat([history.events[t], history.contexts[t]]) for t in range(len(history.events))]
    drawn = iter(others or [])
    vectors, steps, samples = [], [], split(history)
    for sample in samples:
        events = [torch.cat([e, c]) for e, c in zip(sample["e"], sample["c"], strict=True)]
        h, states = torch.zeros(width, dtype=torch.float64), []
        for x in events:
            # torch's GRU: rows of reset, update (of keeping), candidate
            xr, xz, xn = (gru.weight_ih_l0 @ x + gru.bias_ih_l0).split(width)
            hr, hz, hn = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).split(width)
            reset, keep = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            h = (1 - keep) * torch.tanh(xn + reset * hn) + keep * h
            states.append(h)
        if not events:
            vectors.append(torch.zeros(width, dtype=torch.float64))
            continue
        if others is not None:
            for t in range(len(events) - 1):
                other = next(drawn)
                if other < 0:
                    continue
                far = everything[other]
                steps.append(
                    -torch.log(torch.sigmoid(states[t] @ events[t + 1])) - torch.log(1 - torch.sigmoid(states[t] @ far))
                )
        attention = softmax([s @ (model.relevance.weight @ sample["q"]) for s in states])
        state = torch.zeros(width, dtype=torch.float64)
        for a, interest in zip(attention, states, strict=True):
            ui, ri, ci = (model.gates_in.weight @ interest + model.gates_in.bias).split(width)
            us, rs, cs = (model.gates_state.weight @ state + model.gates_state.bias).split(width)
            update = a * torch.sigmoid(ui + us)
            state = (1 - update) * state + update * torch.tanh(ci + torch.sigmoid(ri + rs) * cs)
        vectors.append(state)
    loss = sum(steps) / len(steps) if steps else torch.zeros((), dtype=torch.float64)
    return torch.stack(vectors), loss


def compare(
    wanted: list[torch.Tensor],
    ours: list[torch.Tensor],
    theirs: list[torch.Tensor],
    of_values: tuple[float, float],
    of_gradients: tuple[float, float],
) -> None:
    """Values, and gradients of `wanted`. of_values, of_gradients: rtol and atol."""
    pulls = [torch.randn_like(x) for x in ours]
    grads = []
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=of_values[0], atol=of_values[1])
    for found in (ours, theirs):
        total = sum((o * p).sum() for o, p in zip(found, pulls, strict=True))
        grads.append(torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True))
    for tensor, mine, other in zip(wanted, *grads, strict=True):
        mine, other = (torch.zeros_like(tensor) if g is None else g for g in (mine, other))
        torch.testing.assert_close(mine, other, rtol=of_gradients[0], atol=of_gradients[1])
