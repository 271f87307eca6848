"""Numbers and small ids of all columns at once are what each column's own values make of them."""

import bisect
import math

import numpy as np
import pytest
import torch

from home_dist.config import load_config
from home_dist.export.numbers import SmallRows, Standardised
from home_dist.export.program_inputs import id_name, inputs_of
from home_dist.schema import build_layout, load_schema, save_schema
from tests.factory import make_config, make_data


@pytest.fixture(scope="module", params=[None, 1.5])
def layout(request, tmp_path_factory):
    """Features out of order: ids between numbers, a vector between single values, two statistics of one column."""
    folder = tmp_path_factory.mktemp("numbers")
    data = make_data(folder / "data", rows=20)
    schema = load_schema(data / "schema.toml")
    rate = next(f for f in schema.feature if f.name == "rate")
    again = rate.model_copy(update={"name": "rate_again", "boundaries": (0.25,), "mean": -1.0})
    order = {"vector": 0, "rate": 1, "tab": 2, "age": 3}
    features = sorted((*schema.feature, again), key=lambda f: order.get(f.name, 9))
    save_schema(schema.model_copy(update={"feature": tuple(features)}), data / "schema.toml")
    config = load_config(make_config(folder, data))
    config = config.model_copy(update={"embedding": config.embedding.model_copy(update={"clip": request.param})})
    return build_layout(load_schema(data / "schema.toml"), config)


def test_as_one_value_after_another(layout):
    draw = np.random.default_rng(0)
    special = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 0.25, 1e300]
    rate, age = np.array([*special, *draw.normal(0, 2, 50)]), draw.uniform(0, 10, 58)
    tab = draw.integers(-2, 9, 58)
    vector = draw.normal(size=(58, 3))
    arrays = {"number.rate": rate, "number.age": age, "ids.tab": tab, "vector.vector": vector}
    inputs = {name: torch.from_numpy(values) for name, values in arrays.items()}
    assert {id_name(i) for i in layout.at("small") if i.key not in layout.statistics} == {"ids.tab"}
    wanted = inputs_of(layout)
    for name in ("ids", "numbers"):
        inputs[name] = torch.stack([inputs[part.name] for part in wanted[name].parts], 1)
    small = SmallRows(layout, wanted)(inputs, 58)
    dense = Standardised(layout, wanted)(inputs, 58)
    for row in range(58):
        expected = []
        for item in layout.at("small"):
            statistic = layout.statistics.get(item.key)
            if statistic is None:
                expected.append(int(tab[row]) if 0 <= tab[row] < item.table.rows else 0)
            else:
                value = float(rate[row])
                expected.append(0 if math.isnan(value) else 1 + bisect.bisect_right(statistic.boundaries, value))
        assert small[row].tolist() == expected
        values = []
        for feature in layout.dense:
            own = vector[row] if feature.column == "vector" else [float(arrays[f"number.{feature.column}"][row])]
            for value in own:
                known = feature.mean if math.isnan(value) else value
                scaled = (known - feature.mean) / feature.std
                values.append(scaled if layout.clip is None else min(max(scaled, -layout.clip), layout.clip))
        with np.errstate(over="ignore"):
            assert dense[row].tolist() == np.array(values).astype(np.float32).tolist()
