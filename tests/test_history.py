"""The history: columns fixed by the first row, and a CSV that reads back bit by bit."""

import csv
import io

import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.run.history import History


def test_csv_reads_back_to_the_same_bits():
    random = np.random.default_rng(1)
    values = random.standard_normal(200) * 10.0 ** random.integers(-300, 300, 200)
    history = History()
    for k, value in enumerate(values):
        history.append({"iteration": k, "compliance": value})
    rows = list(csv.DictReader(io.StringIO(history.csv())))
    assert [int(row["iteration"]) for row in rows] == list(range(200))
    assert np.array([float(row["compliance"]) for row in rows]).tobytes() == values.tobytes()
    np.testing.assert_array_equal(history.column("compliance"), values)


def test_numpy_and_jax_scalars_become_numbers():
    history = History()
    history.append(
        {"a": np.int32(3), "b": jnp.float32(0.1), "c": np.float64(0.1), "d": jnp.asarray(2)}
    )
    assert history.last == {"a": 3, "b": float(np.float32(0.1)), "c": 0.1, "d": 2}
    assert isinstance(history.last["a"], int)
    assert isinstance(history.last["d"], int)


def test_nan_and_infinity_are_kept():
    history = History()
    history.append({"x": float("nan"), "y": float("-inf")})
    assert history.csv() == "x,y\nnan,-inf\n"


def test_an_empty_history_has_no_columns():
    history = History()
    assert (len(history), history.columns, history.last) == (0, (), {})


def test_other_columns_than_the_first_row_are_refused():
    history = History()
    history.append({"iteration": 1, "compliance": 2.0})
    with pytest.raises(
        ValueError, match=r"\['iteration', 'volume'\].*\['iteration', 'compliance'\]"
    ):
        history.append({"iteration": 2, "volume": 2.0})
    assert len(history) == 1


@pytest.mark.parametrize("value", ["1.0", None, True, 1j, np.ones(2)])
def test_what_is_not_one_real_number_is_refused(value):
    with pytest.raises(TypeError, match="'compliance'"):
        History().append({"compliance": value})


def test_an_unknown_column_names_the_known_ones():
    history = History()
    history.append({"iteration": 1})
    with pytest.raises(KeyError, match="iteration"):
        history.column("compliance")
