"""The doctor names what is wrong and how to mend it; on a sound machine it is tested end to end in tests/e2e."""

import sys

import pytest

from home_dist import doctor


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor.exit_code(doctor.main())
    return code, capsys.readouterr().out


@pytest.fixture
def sound(monkeypatch):
    """Without the checks that start processes."""
    monkeypatch.setattr(doctor, "run_python", lambda code: None)
    return monkeypatch


def test_both_builds_of_fbgemm(sound, capsys):
    versions = {"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
    real = doctor.installed
    sound.setattr(doctor, "installed", lambda name: versions.get(name) or real(name))
    sound.setattr(doctor, "has_nvidia", lambda: False)
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  fbgemm: fbgemm-gpu-cpu 1.8.0, fbgemm-gpu 1.8.0 are both installed" in text
    assert "-> Both lie in one folder and overwrite each other; keep one: make clean install PLATFORM=cpu" in text


def test_the_cuda_build_where_there_is_no_cuda(sound, capsys):
    failure = "OSError: libcuda.so.1: cannot open shared object file: No such file or directory"
    sound.setattr(doctor, "import_failure", lambda module: failure)
    code, text = told(capsys)
    assert code == 1
    assert f"PROBLEM  fbgemm operators: {failure}" in text
    assert "The CUDA build is installed on a machine without CUDA libraries: make clean install PLATFORM=cpu" in text


def test_another_version_than_the_pinned_one(sound, capsys):
    real = doctor.installed
    sound.setattr(doctor, "installed", lambda name: "1.0" if name == "pyarrow" else real(name))
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  pyarrow: 1.0, but" in text
    assert "make clean install" in text


def test_another_python(sound, capsys):
    sound.setattr(sys, "version_info", (3, 14, 1, "final", 0))
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  Python: 3.14.1" in text
    assert "PYTHON=python3.11" in text


def test_little_memory_and_disk_are_noted(sound, capsys):
    sound.setattr(doctor, "_MEMORY_GIB", 10**9)
    sound.setattr(doctor, "_DISK_GIB", 10**9)
    code, text = told(capsys)
    assert code == 0
    assert "note     free memory:" in text
    assert "note     free disk here:" in text
    assert "run.dir" in text


def test_a_check_that_fails_does_not_hide_the_others(sound, capsys):
    def broken():
        raise RuntimeError("no such thing")

    sound.setattr(doctor, "devices", broken)
    code, text = told(capsys)
    assert code == 1
    assert "RuntimeError: no such thing" in text
    assert "free memory" in text


def test_code_that_crashes_is_told_by_its_last_line():
    assert doctor.run_python("pass") is None
    assert doctor.run_python("raise ValueError('broken here')") == "ValueError: broken here"
    assert doctor.run_python("import os; os._exit(7)") == "ended with exit code 7"


@pytest.fixture
def gpus(sound):
    """A machine with two GPUs of capability 9.0: torch's calls alone are faked."""
    import torch

    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda i: "GPU of a test",
        "get_device_capability": lambda i=None: (9, 0),
        "get_arch_list": lambda: ["sm_80", "sm_90", "sm_100", "sm_120", "compute_120"],
        "can_device_access_peer": lambda i, j: True,
        "is_bf16_supported": lambda *a, **k: True,
    }
    for name, fake in fakes.items():
        sound.setattr(torch.cuda, name, fake)
    sound.setattr(torch.distributed, "is_nccl_available", lambda: True)
    sound.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13010, raising=False)
    sound.setattr(torch.version, "cuda", "13.0")
    return sound


def test_a_sound_machine_with_gpus(gpus, capsys):
    code, text = told(capsys)
    assert code == 0
    for line in (
        "devices: 2 x GPU of a test",
        "driver: the driver knows CUDA 13.1, torch was built for 13.0",
        "compute capability 9.0: torch and FBGEMM hold code for it",
        "nccl: all-reduce over 2 GPUs of this host",
        "peer access: between all 2 GPUs",
        "pinned memory: 256 MiB, copied to the GPU and back",
    ):
        assert f"ok       {line}" in text


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 0), True), ((7, 5), False), ((10, 3), False), ((12, 0), False)],
)
def test_a_gpu_that_fbgemm_holds_no_code_for(gpus, capsys, capability, runs):
    import torch

    gpus.setattr(torch.cuda, "get_device_capability", lambda i=None: capability)
    gpus.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
    code, text = told(capsys)
    name = "compute capability {}.{}".format(*capability)
    assert code == (0 if runs else 1)
    if runs:
        assert f"ok       {name}: " in text
    else:
        assert f"PROBLEM  {name}: the wheel of fbgemm-gpu 1.8.0 holds code for sm_80, sm_90a, sm_100a alone" in text
        assert 'TORCH_CUDA_ARCH_LIST="{}.{}"'.format(*capability) in text


def test_a_gpu_that_torch_holds_no_code_for(gpus, capsys):
    import torch

    gpus.setattr(torch.cuda, "get_arch_list", lambda: ["sm_100", "compute_100"])
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  compute capability 9.0: torch holds no code for it" in text
    gpus.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "compute_80"])  # which the driver compiles for later ones
    assert told(capsys)[0] == 0


def test_an_old_driver(gpus, capsys):
    import torch

    gpus.setattr(torch._C, "_cuda_getDriverVersion", lambda: 12080, raising=False)
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  driver: the driver knows CUDA 12.8, torch was built for 13.0" in text
    assert "-> Update the driver to one for CUDA 13.0" in text


def test_gpus_that_do_not_reach_each_other_are_noted(gpus, capsys):
    import torch

    gpus.setattr(torch.cuda, "can_device_access_peer", lambda i, j: False)
    code, text = told(capsys)
    assert code == 0
    assert "note     peer access: none between GPUs 0 and 1\n" in text


def test_nccl_or_pinned_memory_that_fails(gpus, capsys):
    gpus.setattr(doctor, "run_python", lambda code: "RuntimeError: unhandled system error" if "nccl" in code else None)
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  nccl: RuntimeError: unhandled system error" in text
    gpus.setattr(doctor, "run_python", lambda code: "RuntimeError: out of memory" if "pin_memory" in code else None)
    code, text = told(capsys)
    assert code == 1
    assert "PROBLEM  pinned memory: RuntimeError: out of memory" in text
    assert "ulimit -l unlimited" in text
