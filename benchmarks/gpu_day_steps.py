"""The steps of benchmarks/gpu_day.py, each of which prints a line of JSON for an item as soon as it has found it.

    python benchmarks/gpu_day_steps.py kernels --quick    # one step, in small sizes; TRITON_INTERPRET=1 without a GPU

Imports of this library alone that torch, triton, numpy and pydantic satisfy.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.expert_bank_peers import HomeOfModules, Loop  # noqa: E402
from benchmarks.gpu_day_measures import clear, finished, graphed, in_turns, kept_bytes, peak_of, tell  # noqa: E402
from home_dist.config.model import MODELS  # noqa: E402
from home_dist.config.sequence import ENCODERS  # noqa: E402
from home_dist.experts import ExpertBank, FeatureGate, SparseBank, Towers  # noqa: E402
from home_dist.experts.kernels import Kernel, KernelUser  # noqa: E402
from home_dist.layers.program import program  # noqa: E402
from home_dist.models import TaskGroups, build_model  # noqa: E402
from home_dist.sequence import EncoderInputs, History  # noqa: E402
from home_dist.sequence.history import HostLengths  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
PRECISIONS = ("fp32", "bf16")
TASKS = TaskGroups((0, 0, 0, 0, 1, 1, 1, 1) if ON_GPU else (0, 1))
SIZES = {
    "tiny": (16, 16, 8, 8),
    "small": (8192, 256, 64, 32),
    "medium": (8192, 512, 256, 128),
    "large": (8192, 1024, 512, 256),
}
"""Samples, input, hidden and output width."""


def use(module: nn.Module, backend: str, precision: str) -> None:
    for user in module.modules():
        if isinstance(user, KernelUser):
            user.kernel = Kernel(backend, precision)  # type: ignore[arg-type]


def machine(quick: bool) -> None:
    """What the device is, and how fast it multiplies and copies."""
    about: dict[str, Any] = {"device": str(DEVICE)}
    if ON_GPU:
        of = torch.cuda.get_device_properties(DEVICE)
        about |= {"name": of.name, "capability": f"{of.major}.{of.minor}", "memory_gb": of.total_memory / 1e9}
        about |= {"multiprocessors": of.multi_processor_count}
    tell("about", **about)
    tell("peak", **peaks(quick))


def peaks(quick: bool) -> dict[str, float]:
    """Measured: FLOP/s of one large product by precision, and bytes/s of a copy."""
    n = 8192 if ON_GPU and not quick else 2048 if ON_GPU else 128
    found = {}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=DEVICE, dtype=kind) for _ in range(2))
        found[f"{precision}_flops"] = 2 * n**3 / in_turns({"product": lambda a=a, b=b: a @ b}, 5)["product"]
    x = torch.empty(n * n * 4, device=DEVICE)
    y = torch.empty_like(x)
    found["copy_bytes"] = 2 * x.nbytes / in_turns({"copy": lambda: y.copy_(x)}, 5)["copy"]
    return found


def kernels(quick: bool) -> None:
    """Every Triton kernel against eager, forward and backward: the largest difference over the largest value of the result. The
    interpreter takes seconds for each, and is given some."""
    samples, width = (17, 32) if not ON_GPU else (37, 32) if quick else (1000, 256)
    own = (2, 1, 3) if ON_GPU else (1, 1)
    for precision in PRECISIONS:
        for norm in (False, True):
            name = f"bank {'normalised' if norm else 'classic'}"
            for dropout in (0.0, 0.25) if ON_GPU else (0.25 * norm,):
                bank = ExpertBank(own, width, [width // 2], width // 4, norm, dropout).to(DEVICE)
                xs, gates = leaf(len(own), samples, width), leaf(4, samples, sum(own))
                compare(
                    f"{name}, dropout {dropout:g}", precision, bank, lambda b=bank, x=xs, g=gates: b.mixed(x, g), [xs, gates]
                )
            if not (norm or ON_GPU):
                continue
            sparse = SparseBank(6, width, [width // 2], width // 4, norm, per_sample=5).to(DEVICE)
            x, chosen = leaf(samples, width), torch.rand(4, samples, 6, device=DEVICE).argsort(2)[..., :2].contiguous()
            weights = leaf(4, samples, 2)
            of_chosen = lambda b=sparse, x=x, c=chosen, w=weights: b.of_chosen(x, c, w)  # noqa: E731
            compare(f"sparse {name}", precision, sparse, of_chosen, [x, weights])
        for sigmoid in ("inside", "outside") if ON_GPU else ("inside" if precision == "fp32" else "outside",):
            gate, x = FeatureGate(3, width, 2, 16, sigmoid).to(DEVICE), leaf(samples, width)  # type: ignore[arg-type]
            compare(f"feature gate, sigmoid {sigmoid}", precision, gate, lambda g=gate, x=x: g(x), [x])


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def compare(
    name: str, precision: str, module: nn.Module, step: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]
) -> None:
    wanted = [*leaves, *module.parameters()]
    found = {}
    pull = None
    try:
        for backend in ("eager", "triton"):
            use(module, backend, precision)
            torch.manual_seed(1)  # the keys of dropout
            out = step()
            pull = torch.randn_like(out) if pull is None else pull
            found[backend] = [out.detach(), *torch.autograd.grad(out, wanted, pull)]
        differences = [
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(*found.values(), strict=True)
        ]
        bound = 2e-5 if precision == "fp32" else 4e-2
        right = all(d <= bound for d in differences)
        tell(f"{name}, {precision}", forward=differences[0], backward=max(differences[1:]), bound=bound, right=right)
    except Exception as error:
        tell(f"{name}, {precision}", right=False, error=f"{type(error).__name__}: {str(error)[:300]}")


def waits(quick: bool) -> None:
    """Waits of the host in a step, by torch's sync debug mode."""
    if not ON_GPU:
        tell("left out", reason="without a GPU nothing waits for one")
        return
    for name, step in [*dense_halves("bf16", 512), *encoders(64, 50)]:
        step()
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            step()
            torch.cuda.set_sync_debug_mode("default")
        lines = [f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in said if "synchroniz" in str(w.message)]
        tell(name, waits=len(lines), lines=sorted(set(lines)))


def bank(quick: bool) -> None:
    """Seconds of a step, forward and backward, of the bank and of its rivals."""
    sizes = ["tiny"] if not ON_GPU else ["small"] if quick else ["large", "medium", "small"]
    for size in sizes:
        for experts in (24, 8, 72, 1) if ON_GPU else (2,):
            for precision in ("bf16", "fp32") if size in ("medium", "tiny") else ("bf16",):
                try:
                    bank_of(size, experts, precision, compiled=ON_GPU and experts in (8, 24) and size != "small")
                except Exception as error:
                    tell(f"{size}, {experts} experts, {precision}", error=f"{type(error).__name__}: {str(error)[:300]}")


def bank_of(size: str, experts: int, precision: str, compiled: bool) -> None:
    samples, width, hidden, out = SIZES[size]
    of, x, gates = (
        ExpertBank([experts], width, [hidden], out, norm=True).to(DEVICE),
        leaf(samples, width),
        leaf(4, samples, experts),
    )
    loop, pull = Loop(of).to(DEVICE), torch.randn(4, samples, out, device=DEVICE)

    def step(call: Callable[[], torch.Tensor], module: nn.Module, backend: str) -> Callable[[], object]:
        def run() -> None:
            clear(module, x, gates)
            use(of, backend, precision)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16" and module is not of):
                result = call()
            result.backward(pull.to(result.dtype))

        return run

    systems = {
        "home_dist": step(lambda: of.mixed([x], gates), of, "triton"),
        "eager": step(lambda: of.mixed([x], gates), of, "eager"),
        "products": products(samples, width, hidden, out, experts, precision),
        "loop": step(lambda: loop(x, gates), loop, "eager"),
    }
    if compiled:
        made = torch.compile(loop, dynamic=False)
        systems["compiled"] = step(lambda: made(x, gates), loop, "eager")
    if ON_GPU and precision == "bf16" and hasattr(torch, "_grouped_mm"):
        systems["grouped_mm"] = grouped(samples, width, hidden, out, experts)
    times = in_turns(systems, 7 if ON_GPU else 1)
    tell(f"{size}, {experts} experts, {precision}", size=size, experts=experts, precision=precision, **times)


def products(samples: int, width: int, hidden: int, out: int, experts: int, precision: str) -> Callable[[], object]:
    """The six products of a step alone, of operands that lie there. One input: its products with all experts are one."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, first = (torch.randn(*s, device=DEVICE, dtype=kind) for s in ((samples, width), (width, experts * hidden)))
    h, second = (torch.randn(experts, *s, device=DEVICE, dtype=kind) for s in ((samples, hidden), (hidden, out)))
    y, all_h = torch.randn(experts, samples, out, device=DEVICE, dtype=kind), torch.randn_like(x @ first)

    def run() -> None:
        _ = x @ first
        torch.bmm(h, second)
        torch.bmm(y, second.transpose(1, 2))
        torch.bmm(h.transpose(1, 2), y)
        _ = all_h @ first.t()
        _ = x.t() @ all_h

    return run


def grouped(samples: int, width: int, hidden: int, out: int, experts: int) -> Callable[[], object]:
    """Both layers by torch's grouped_mm, with ReLU between them, without normalisation and mixture; rows are repeated."""
    kind = {"device": DEVICE, "dtype": torch.bfloat16, "requires_grad": True}
    x, first, second = (
        torch.randn(*s, **kind) for s in ((experts * samples, width), (experts, width, hidden), (experts, hidden, out))
    )
    ends = torch.arange(1, experts + 1, device=DEVICE, dtype=torch.int32) * samples
    pull = torch.randn(experts * samples, out, device=DEVICE, dtype=torch.bfloat16)

    def run() -> None:
        x.grad = first.grad = second.grad = None
        h = torch.relu(torch._grouped_mm(x, first, offs=ends))
        torch._grouped_mm(h, second, offs=ends).backward(pull)

    return run


def sparse_bank(quick: bool) -> None:
    """Seconds of a step where each sample uses 12 of E experts at most, beside the dense bank of 12."""
    samples, width, hidden, out = SIZES["tiny" if not ON_GPU else "small" if quick else "medium"]
    tasks, shared = (8, 4) if ON_GPU else (2, 1)
    used = shared + tasks
    for experts in (16, 64) if ON_GPU else (4,):
        for precision in ("bf16",):
            x, pull = leaf(samples, width), torch.randn(tasks, samples, out, device=DEVICE)
            order = torch.rand(samples, experts, device=DEVICE).argsort(1)
            own = order[:, shared:].gather(1, torch.randint(experts - shared, (samples, tasks), device=DEVICE)).t().unsqueeze(2)
            chosen = torch.cat([order[:, :shared].expand(tasks, -1, -1), own], 2).contiguous()
            gates, all_gates = leaf(*chosen.shape), leaf(tasks, samples, used)
            few = SparseBank(experts, width, [hidden], out, norm=True, per_sample=used).to(DEVICE)
            whole = ExpertBank([used], width, [hidden], out, norm=True).to(DEVICE)
            use(few, "triton", precision)
            use(whole, "triton", precision)

            def sparse(few=few, x=x, chosen=chosen, gates=gates, pull=pull) -> None:
                clear(few, x, gates)
                few.of_chosen(x, chosen, gates).backward(pull)

            def dense(whole=whole, x=x, gates=all_gates, pull=pull) -> None:
                clear(whole, x, gates)
                whole.mixed([x], gates).backward(pull)

            times = in_turns({"sparse": sparse, f"dense of {used}": dense}, 7 if ON_GPU else 1)
            tell(f"{experts} experts, {precision}", **times)


class DenseHalf(nn.Module):
    """v (B, F) -> the loss () of all tasks: a model, its towers and a cross entropy."""

    def __init__(self, model: nn.Module, width: int):
        super().__init__()
        self.model, self.bf16 = model, False
        self.towers = Towers(width, [64] if ON_GPU else [8], [torch.zeros(1)] * len(TASKS.group_of))

    def forward(self, v: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        state = self.model(v)
        with torch.autocast(v.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.towers(state).float()
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def sections(quick: bool) -> dict[str, dict[str, Any]]:
    _, _, hidden, out = size_of_models(quick)
    widths = {"expert_hidden": [hidden], "expert_dim": out}
    return {
        "home": {**widths, "feature_gate_rank": 32 if ON_GPU else 8},
        "mmoe": {**widths, "experts": 8 if ON_GPU else 2},
        "ple": {**widths, "layers": 2},
        "smes": {**widths, "experts": 16 if ON_GPU else 4},
    }


def size_of_models(quick: bool) -> tuple[int, int, int, int]:
    return SIZES["tiny" if not ON_GPU else "small" if quick else "medium"]


def dense_half(kind: str, precision: str, quick: bool) -> DenseHalf:
    torch.manual_seed(0)
    width = size_of_models(quick)[1]
    model = build_model(MODELS.section(kind)(kind=kind, **sections(quick)[kind]), width, TASKS)
    half = DenseHalf(model, model.out_dim).to(DEVICE)
    use(half, "triton", precision)
    half.bf16 = precision == "bf16"
    return half


def step_of(
    half: nn.Module, v: torch.Tensor, labels: torch.Tensor, loss: Callable[..., torch.Tensor] | None = None
) -> Callable[[], object]:
    """loss: the half's, as a program."""

    def run() -> None:
        clear(half, v)
        (half if loss is None else loss)(v, labels).backward()

    return run


def inputs_of(samples: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return leaf(samples, width), torch.randint(2, (samples, len(TASKS.group_of)), device=DEVICE).float()


def dense_halves(precision: str, samples: int) -> list[tuple[str, Callable[[], object]]]:
    found = []
    for kind in sections(True):
        half = dense_half(kind, precision, True)
        found.append((f"{kind}, {precision}", step_of(half, *inputs_of(samples, size_of_models(True)[1]))))
    return found


def models(quick: bool) -> None:
    """Samples/s of dense halves, with and without CUDA graphs, and the limit that products and bytes set."""
    samples, width, _, out = size_of_models(quick)
    limits = peaks(quick)
    v, labels = inputs_of(samples, width)
    for precision in ("bf16", "fp32") if ON_GPU else ("fp32",):
        for kind in sections(quick):
            try:
                half = dense_half(kind, precision, quick)
                step = step_of(half, v, labels)
                seconds = in_turns({kind: step}, 7 if ON_GPU else 1)[kind]
                use(half, "eager", precision)
                flops, kept = kept_bytes(half, v, labels)
                use(half, "triton", precision)
                moved = 3 * sum(p.nbytes for p in half.parameters()) + 2 * kept
                limit = max(flops / limits[f"{precision}_flops"], moved / limits["copy_bytes"])
                more: dict[str, Any] = {"limit_samples_per_s": samples / limit}
                if ON_GPU:
                    more |= {"peak_memory_mb": peak_of(step) / 1e6, "with_graph": with_graph(half, v, labels, samples)}
                tell(f"{kind}, {precision}", samples_per_s=samples / seconds, **more)
            except Exception as error:
                tell(f"{kind}, {precision}", error=f"{type(error).__name__}: {str(error)[:300]}")
    if ON_GPU and not quick:
        plain = DenseHalf(HomeOfModules(dense_half("home", "fp32", quick).model, TASKS), out).to(DEVICE)
        fused = torch.compile(plain, dynamic=False)

        def step() -> None:
            clear(plain, v)
            with torch.autocast("cuda", torch.bfloat16):
                loss = fused(v, labels)
            loss.backward()

        tell("home of plain modules, compiled, bf16", samples_per_s=samples / in_turns({"plain": step}, 7)["plain"])


def with_graph(half: nn.Module, v: torch.Tensor, labels: torch.Tensor, samples: int) -> dict[str, Any]:
    try:
        replay = graphed(lambda: half(v, labels), [v, *half.parameters()])
        return {"samples_per_s": samples / in_turns({"graph": replay}, 7)["graph"]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def compiled(quick: bool) -> None:
    """Samples/s of dense halves as kernel.backend = "compile" computes them, without and with kernel.cuda_graphs, beside the
    Triton kernels: which is to be the default is what this decides."""
    samples, width, _, _ = size_of_models(quick)
    v, labels = inputs_of(samples, width)
    for precision in ("bf16", "fp32") if ON_GPU else ("fp32",):
        kind = "home" if ON_GPU else "mmoe"  # a CPU's compiler takes a minute for HoME
        half, plain = dense_half(kind, precision, quick), dense_half(kind, precision, quick)
        use(plain, "eager", precision)
        steps = {"triton": step_of(half, v, labels)}
        for name, cuda_graphs in (("compile", False), ("compile, CUDA graphs", True))[: 2 if ON_GPU else 1]:
            step = step_of(plain, v, labels, program(plain, cuda_graphs))
            began = time.perf_counter()
            try:
                for _ in range(3):  # graphs are recorded in the second step
                    step()
                finished()
                steps[name] = step
                tell(f"{kind}, {precision}, {name}: first steps", seconds=time.perf_counter() - began)
            except Exception as error:
                tell(f"{kind}, {precision}, {name}", error=f"{type(error).__name__}: {str(error)[:300]}")
        for name, seconds in in_turns(steps, 7 if ON_GPU else 1).items():
            tell(f"{kind}, {precision}, {name}", samples_per_s=samples / seconds)


def encoders(samples: int, length: int) -> list[tuple[str, Callable[[], object]]]:
    kinds = {"din": {}, "sim": {"most": 50}, "twin": {"most": 50}}
    return [(kind, encoder_step(kind, options, samples, length)) for kind, options in kinds.items()]


def encoder_step(kind: str, options: dict[str, Any], samples: int, length: int) -> Callable[[], object]:
    torch.manual_seed(0)
    wide, narrow = (32, 16) if ON_GPU else (8, 4)
    section = ENCODERS.section(kind)(name="watched", kind=kind, **options)
    encoder = ENCODERS.find(kind)(section, EncoderInputs(wide, narrow, ("item",), 2)).to(DEVICE)
    use(encoder, "eager", "fp32")
    lengths = torch.full((samples,), length)
    on_host = HostLengths(lengths.numpy(), lengths.numpy())
    events, contexts, targets = leaf(samples * length, wide), leaf(samples * length, narrow), leaf(samples, wide)
    ids = {"item": torch.randint(1000, (samples * length,), device=DEVICE)}
    lengths, own = lengths.to(DEVICE), {"item": torch.randint(1000, (samples,), device=DEVICE)}

    def run() -> None:
        clear(encoder, events, contexts, targets)
        encoded = encoder(History(events, contexts, targets, lengths, ids, own, lengths_on_host=on_host))
        total = encoded.vector.float().sum() + sum(logits.float().sum() for logits, _ in encoded.predictions.values())
        total.backward()

    return run


def histories(quick: bool) -> None:
    """Events/s of encoders by length of the histories, and the most memory of a step."""
    lengths = (100, 1_000, 10_000, 100_000) if ON_GPU else (10, 40)
    for length in lengths[:2] if quick else lengths:
        samples = min(2048, 4_000_000 // length) if ON_GPU else 4
        for name in ("din", "sim", "twin"):
            try:
                [step] = [s for n, s in encoders(samples, length) if n == name]
                seconds = in_turns({name: step}, 5 if ON_GPU else 1)[name]
                memory = {"peak_memory_mb": peak_of(step) / 1e6} if ON_GPU else {}
                rate = samples * length / seconds
                tell(f"{name}, {length} events", encoder=name, length=length, samples=samples, events_per_s=rate, **memory)
            except Exception as error:
                tell(f"{name}, {length} events", error=f"{type(error).__name__}: {str(error)[:300]}")


STEPS = {f.__name__.replace("_", " "): f for f in (machine, kernels, waits, bank, sparse_bank, models, histories, compiled)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if not ON_GPU:
        torch.set_num_threads(1)
    STEPS[chosen.step](chosen.quick)


if __name__ == "__main__":
    main()
