"""The inputs of a program whose task has an objective that is not imported."""

import pytest

from home_dist.config import load_config
from home_dist.export.program import with_durations
from home_dist.export.program_inputs import inputs_of
from home_dist.schema import build_layout, load_schema
from tests.mixed_tasks import mixed_config, mixed_data


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("durations")
    return load_config(mixed_config(folder, mixed_data(folder / "data", rows=60)))


@pytest.mark.parametrize("tasks", [["like", "by_duration"], ["like", "seconds"]])
@pytest.mark.parametrize("inputs", [{"duration.length"}, set()])
def test_durations_are_those_that_the_program_takes(config, tasks, inputs):
    """Whatever the tasks' kinds in the schema read."""
    schema = load_schema(config.schema_path()).only(tasks)
    layout = build_layout(schema, config)
    assert bool(layout.durations) == ("by_duration" in tasks)
    found = with_durations(layout, schema.task, inputs)
    assert {name for name in inputs_of(found) if name.startswith("duration.")} == inputs
