"""A component like those of launchers/components.py, around trivial_job.py."""

from torchx import specs

from launchers.components import job


def trivial(how: str, j: str = "1x2", port: int = 29500) -> specs.AppDef:
    """Runs trivial_job.

    Args:
        how: ok, fail, kill or hang
        j: nodes x processes
        port: for several nodes
    """
    return job(how, ["two words", "$HOME", "[1,2]"], j, port=port, module="tests.launchers.trivial_job")
