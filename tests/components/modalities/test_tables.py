"""Tables of numbers as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from components.errors import UserError
from components.modalities.tables import filled, following, read_csv, regular, to_csv


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b")),
        ("1,2\n3,4\n", ("value1", "value2")),
        ("a;b\n1,0;2\n3;4,0\n", ("a", "b")),
        ("a\tb\n1\t2\n\n3\t4\n", ("a", "b")),
        ("1 2\n3 4\n", ("value1", "value2")),
        ("\ufeffdate,a,b\n2024-01-01,1,2\n2024-01-02,3,4\n", ("a", "b")),
        ("2024-01-01,1,2\n2024-01-02,3,4\n", ("value2", "value3")),
        ("01/31/2024,1,2\n02/01/2024,3,4\n", ("value2", "value3")),
        ("index,a,b\n0,1,2\n1,3,4\n", ("a", "b")),
        ('"a","b",note\n1,2,"x, y"\n3,4,z\n', ("a", "b")),
        ("a,a\n1,2\n3,4\n", ("a", "a.1")),
    ],
)
def test_headers_times_and_marks_are_recognised(text: str, names: tuple[str, ...]) -> None:
    table = read_csv(text, "it.csv")
    assert table.names == names
    assert table.values.tolist() == [[1, 2], [3, 4]]


def test_what_is_missing_is_no_number() -> None:
    table = read_csv("a,b\n1,\nNA,2\n3,nan\n", "it.csv")
    assert table.missing == 3
    assert np.isnan(table.values).tolist() == [[False, True], [True, False], [False, True]]


@pytest.mark.parametrize(
    ("text", "time", "sentence"),
    [
        ("", None, "it.csv is empty"),
        ("a,b\n", None, "it.csv has a header and no rows"),
        ("a,b\n1,2\n3\n", None, "it.csv, line 3 has 1 cells and the first line has 2; mend the line."),
        ("a\n1\n2x\n3\n4\n", None, "it.csv, line 3: “2x” in the column “a” is no number; mend it"),
        ("a\n1\ninf\n3\n4\n", None, "it.csv, line 3: “inf” in the column “a” is no number"),
        ("a,b\nx,y\nz,w\n", None, "it.csv holds no column of numbers"),
        (f'a,b\n1,"{"x" * 140_000}"\n', None, "it.csv cannot be read as a table (field larger"),
        ("a,b\n1,2\n", "when", "There is no column in it.csv “when”"),
        ("when,a\n2024-01-01,1\nsoon,2\n", "when", "it.csv, line 3: “soon” in the column “when” is no time"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, time: str | None, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read_csv(text, "it.csv", time)
    assert sentence in str(caught.value)


def test_rows_get_even_steps() -> None:
    table = regular(read_csv("t,a\n2024-01-02,2\n2024-01-01,1\n2024-01-03,3\n2024-01-06,6\n", "it"), "it")
    assert table.ordered
    assert table.inserted == 2
    assert np.array_equal(table.values[:, 0], [1, 2, 3, np.nan, np.nan, 6], equal_nan=True)
    assert table.times is not None
    assert table.times.astype("datetime64[D]").astype(str).tolist()[3:] == [
        "2024-01-04",
        "2024-01-05",
        "2024-01-06",
    ]


def test_weekends_and_months_are_no_gaps() -> None:
    days = np.arange(np.datetime64("2024-01-01"), np.datetime64("2024-03-01"))
    work = days[np.is_busday(days)]
    text = "day,a\n" + "\n".join(f"{day},{place}" for place, day in enumerate(work))
    table = regular(read_csv(text, "it"), "it")
    assert table.inserted == 0
    assert table.times is not None
    assert following(table.times, 2) == ["2024-03-01", "2024-03-04"], "a Friday and a Monday"
    months = "\n".join(f"2023-{month:02d}-15,{month}" for month in range(1, 13))
    table = regular(read_csv(f"day,a\n{months}\n", "it"), "it")
    assert table.inserted == 0
    assert table.times is not None
    assert following(table.times, 3) == ["2024-01-15", "2024-02-15", "2024-03-15"]


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (("2024-01-01", "2024-01-02", "2024-01-02"), "has the time 2024-01-02T00:00:00 more than once"),
        (
            ("2024-01-01", "2024-01-02", "2024-01-03", "2025-01-01"),
            "of 367 steps of 86400 s only 4 are there",
        ),
    ],
)
def test_times_that_make_no_steps_are_refused(times: tuple[str, ...], sentence: str) -> None:
    text = "t,a\n" + "\n".join(f"{time},1" for time in times)
    with pytest.raises(UserError) as caught:
        regular(read_csv(text, "it"), "it")
    assert sentence in str(caught.value)


def test_short_gaps_are_interpolated_and_long_ones_stay() -> None:
    nan = np.nan
    values, count = filled(np.array([nan, 1, nan, 3, nan, nan, nan, 7, nan]), 2)
    assert count == 1
    assert np.array_equal(values, [nan, 1, 2, 3, nan, nan, nan, 7, nan], equal_nan=True)


def test_a_table_is_written_as_it_is_read() -> None:
    for text in ("a,b\n1.5,\n,-2e-05\n", "time,a\n2024-01-01T00:00:00,1.0\n2024-01-01T01:00:00,2.25\n"):
        table = read_csv(text, "it")
        again = read_csv(to_csv(table), "it")
        assert again.names == table.names
        assert np.array_equal(again.values, table.values, equal_nan=True)
        assert np.array_equal(again.times, table.times) if table.times is not None else again.times is None
    assert read_csv("a\n1\n2\n3\n", "it").last(2).values.tolist() == [[2], [3]]


def test_columns_of_one_name_are_all_kept() -> None:
    table = read_csv("a,a,a.1\n1,2,3\n4,5,6\n", "it")
    assert table.names == ("a", "a.2", "a.1")
    assert table.values[0].tolist() == [1, 2, 3]
