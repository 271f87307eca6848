"""A configuration as written to a run's folder and to checkpoints."""

from pathlib import Path
from typing import Any

from home_dist.config.run_config import RunConfig
from home_dist.files.places import without_secrets
from home_dist.files.whole import write_whole


def save_config(config: RunConfig, path: str | Path) -> None:
    """Writes the resolved configuration, defaults included. load_config reads the same back, except keys and passwords of the
    data's URLs, which are not written."""
    write_whole(Path(path), config_text(config))


def config_text(config: RunConfig) -> str:
    import tomli_w  # here, because a process that writes no configuration may lack it

    return tomli_w.dumps(config_tree(config))


def config_tree(config: RunConfig) -> dict[str, Any]:
    """The configuration as written to a run's folder and to checkpoints: without keys and passwords of the data's URLs."""
    return without_keys(config.model_dump(mode="json", exclude_none=True, by_alias=True))


def without_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """A written configuration without keys and passwords of the data's URLs, which older versions wrote."""
    data = tree.get("data", {})
    places = {key: without_secrets(data[key]) for key in ("path", "schema") if isinstance(data.get(key), str)}
    return {**tree, "data": {**data, **places}} if places else tree


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A written configuration by keys such as "model.kind" and "sequence.0.kind"."""
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}{name}.").items()}
    if isinstance(tree, list) and any(isinstance(entry, dict) for entry in tree):
        return {k: v for n, sub in enumerate(tree) for k, v in flat(sub, f"{prefix}{n}.").items()}
    return {prefix[:-1]: tree}
