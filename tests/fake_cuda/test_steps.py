"""Every model, encoder, kind of task and precision takes a step on a GPU: no tensor on another device, no wait of the host.

The GPU is a fake one (device.py), in a process of its own. operators.json has the operators of each step; a change of a number
is deliberate, and recorded: python -m tests.fake_cuda.run --record
"""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from home_dist.experts.kernels import cpu_library
from tests.fake_cuda.cases import cases, is_slow
from tests.fake_cuda.run import RECORD
from tests.ranks import REPOSITORY

pytestmark = pytest.mark.skipif("no C++ compiler" in cpu_library.unavailable(), reason="the fake GPU is compiled")
NAMES = list(cases())


def program(*arguments: str) -> str:
    """Not forked: the fake GPU has to be there before torch is imported."""
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def fast() -> Mapping[str, int | str]:
    return json.loads(program("-m", "tests.fake_cuda.run", "fast"))


@pytest.fixture(scope="module")
def slow() -> Mapping[str, int | str]:
    return json.loads(program("-m", "tests.fake_cuda.run", "slow"))


def check(name: str, found: int | str) -> None:
    assert isinstance(found, int), found
    recorded = json.loads(RECORD.read_text())
    assert found == recorded[name], "if this is meant: python -m tests.fake_cuda.run --record"


@pytest.mark.parametrize("name", [n for n in NAMES if not is_slow(n)])
def test_a_step_on_a_gpu(fast, name):
    check(name, fast[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if is_slow(n)])
def test_a_step_of_many_operators_on_a_gpu(slow, name):
    check(name, slow[name])


def test_the_record_has_each_step_and_no_other():
    assert json.loads(RECORD.read_text()).keys() == set(NAMES)


def test_a_longer_history_takes_as_many_operators():
    """But for DIEN, whose recurrences take steps."""
    recorded = json.loads(RECORD.read_text())
    longer = {n: n.replace("length 10,", "length 1000,") for n in NAMES if "length 10," in n and "encoder dien" not in n}
    pairs = {n: (recorded[n], recorded[other]) for n, other in longer.items() if other in recorded}
    assert len(pairs) == 16  # four of DIN, two of SIM and two of TWIN, in two precisions
    assert {n: counts for n, counts in pairs.items() if counts[0] != counts[1]} == {}


CAUGHT = {
    "x.sum().item()": "_local_scalar_dense (the host reads a number)",
    "bool(x.any())": "_local_scalar_dense",
    "x.nonzero()": "nonzero (the size of its result depends on data)",
    "x[x > 0]": "index (a mask as an index is sized by data)",
    "x.masked_select(x > 0)": "masked_select",
    "torch.unique(x.long())": "_unique2",
    "x.long().bincount()": "bincount",
    "torch.repeat_interleave(x.long())": "repeat_interleave (without output_size",
    "x.cpu()": "_to_copy (a copy from cuda to cpu)",
    "torch.zeros(2).to('cuda')": "_to_copy (a copy from cpu to cuda)",
    "x.new_tensor([1.0])": "a copy from cpu to cuda",
}
"""Statements that make the host wait, and what is said about them."""
NOT_DETERMINISTIC = ("x.cumsum(0)", "torch.nn.functional.cross_entropy(x.view(1, 2, 2), x[:2].long().view(1, 2))")
PASSED = ("x.new_full((), 1.0)", "x.long().cumsum(0)", "x.nonzero_static(size=2)", "torch.where(x > 0, x, 0.0)", "x * 2")
HARNESS = """
import json, sys
from tests.fake_cuda import device
device.begin()
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from tests.fake_cuda.watch import HostSync, Watch
found = {}
with FakeTensorMode(allow_non_fake_inputs=True):
    x = torch.zeros(4, device="cuda")
    for statement in json.loads(sys.argv[1]):
        try:
            with Watch():
                eval(statement)
            found[statement] = ""
        except Exception as error:
            found[statement] = f"{type(error).__name__}: {error}"
    found["two devices"] = ""
    try:
        x + torch.zeros(4)
    except RuntimeError as error:
        found["two devices"] = str(error)
    y = torch.zeros(4, device="cuda", requires_grad=True)
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            return t * 2
        @staticmethod
        def backward(ctx, grad):
            return grad * grad.sum().item()
    try:
        with Watch():
            Late.apply(y).sum().backward()
    except HostSync as error:
        found["backward"] = str(error)
print(json.dumps(found))
"""


def test_what_makes_the_host_wait_is_caught():
    found = json.loads(program("-W", "ignore", "-c", HARNESS, json.dumps([*CAUGHT, *NOT_DETERMINISTIC, *PASSED])))
    for statement, said in CAUGHT.items():
        assert found[statement].startswith("HostSync: "), (statement, found[statement])
        assert said in found[statement]
    assert all(found[statement].startswith("NotDeterministic: ") for statement in NOT_DETERMINISTIC), found
    assert {statement: found[statement] for statement in PASSED} == dict.fromkeys(PASSED, "")
    assert "device" in found["two devices"]
    assert "the backward of LateBackward" in found["backward"]
