import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import FunctionTransformer

from laddernet.errors import DataError, RunError
from laddernet.preparation import _TRUSTED, MOST_TIMES, Preparation, _count_pieces

ROWS = 120


def make_table(rows=ROWS):
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2020-01-31") + pd.to_timedelta(rng.integers(0, 900, rows), unit="D")
    return pd.DataFrame(
        {
            "age": np.where(np.arange(rows) % 7 == 0, np.nan, rng.integers(1, 90, rows)),
            "color": rng.choice(["red", "green", "blue"], rows),
            "when": days.strftime("%Y-%m-%d"),
            "stamp": days,
            "street": [f"road {word} {number}" for word, number in enumerate(rng.integers(0, 99, rows))],
            "member": rng.random(rows) < 0.5,
            "kind": pd.Series(rng.choice(["u", "v"], rows)).astype("category"),
            "height": rng.standard_normal(rows),
            "empty": np.nan,
            "same": 1.0,
            "length": pd.to_timedelta(rng.integers(0, 99, rows), unit="s"),
        }
    )


TABLE = make_table()


@pytest.fixture(scope="module")
def preparation():
    return Preparation.fit(TABLE)


def test_the_features_of_a_column_count_together_as_a_lone_number_does(preparation):
    totals = dict.fromkeys(preparation.columns, 0.0)
    for feature, weight in zip(preparation.feature_names, preparation.column_weights, strict=True):
        [source] = [name for name in totals if feature == name or feature.startswith(f"{name}_")]
        totals[source] += weight**2
    assert {name for name, total in totals.items() if total == 0} == {"empty"}
    assert [total for total in totals.values() if total] == pytest.approx([1.0] * (len(totals) - 1))
    weights = dict(zip(preparation.feature_names, preparation.column_weights, strict=True))
    assert (weights["height"], weights["age"], weights["age_missing"]) == (1, 2**-0.5, 2**-0.5)
    assert weights["color_red"] == 3**-0.5
    assert weights["street_0"] == 30**-0.5


def test_columns_that_are_dropped_are_looked_at_nowhere(preparation):
    dropped = Preparation.fit(TABLE, drop=["street", "age", "age"])
    assert dropped.columns == [name for name in TABLE if name not in ("street", "age")]
    expected = Preparation.fit(TABLE.drop(columns=["street", "age"])).apply(TABLE.drop(columns=["street", "age"]))
    np.testing.assert_array_equal(dropped.apply(TABLE), expected)  # a warning would be an error
    np.testing.assert_array_equal(dropped.apply(TABLE.drop(columns="age").assign(street=1)), expected)


@pytest.mark.parametrize(
    ("drop", "message"),
    [(["colour"], r"no column 'colour' to leave out \(perhaps 'color'\)"), (list(TABLE), "every column")],
)
def test_columns_to_drop_must_be_there_and_some_stay(drop, message):
    with pytest.raises(DataError, match=message):
        Preparation.fit(TABLE, drop=drop)


def column_of(preparation, values, name):
    return values[:, preparation.feature_names.index(name)]


def test_each_kind_of_column_becomes_the_numbers_it_should(preparation):
    values = preparation.apply(TABLE)
    assert values.dtype == np.float32
    assert values.shape == (ROWS, len(preparation.feature_names))
    assert np.isfinite(values).all()
    assert preparation.columns == list(TABLE)
    expected = {
        "age": TABLE["age"].fillna(TABLE["age"].median()),
        "age_missing": TABLE["age"].isna(),
        "height": TABLE["height"],
        "member": TABLE["member"],
        "same": TABLE["same"],
        "color_red": TABLE["color"] == "red",
        "kind_v": TABLE["kind"] == "v",
        "when_month": TABLE["stamp"].dt.month,
        "stamp_year": TABLE["stamp"].dt.year,
        "length": TABLE["length"].dt.total_seconds(),
    }
    for name, column in expected.items():
        np.testing.assert_array_equal(column_of(preparation, values, name), column.to_numpy(np.float32), err_msg=name)
    assert not [name for name in preparation.feature_names if name.startswith(("empty", "height_missing"))]
    assert len([name for name in preparation.feature_names if name.startswith("street_")]) == 30


def test_similar_text_has_similar_numbers(preparation):
    table = pd.concat([TABLE.iloc[:1]] * 3)
    table["street"] = ["road avenue 12", "road avenues 12", "xyzzy"]
    texts = preparation.apply(table)[:, -30:]
    assert np.linalg.norm(texts[0] - texts[1]) < 0.5 * np.linalg.norm(texts[0] - texts[2])


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(list(TABLE)), rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9))
def test_columns_are_aligned_by_name_and_rows_stand_alone(preparation, order, rows):
    whole = preparation.apply(TABLE)
    np.testing.assert_array_equal(preparation.apply(TABLE[order].iloc[rows]), whole[rows])


@pytest.mark.filterwarnings("ignore:values are missing")
@settings(max_examples=10, deadline=None)
@given(gaps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(list(TABLE))), max_size=20))
def test_gaps_anywhere_give_finite_numbers(preparation, gaps):
    table = TABLE.iloc[:4].astype(object)
    for row, name in gaps:
        table.loc[row, name] = None
    values = preparation.apply(table)
    assert np.isfinite(values).all()
    full = [row for row in range(4) if row not in {row for row, _ in gaps}]
    np.testing.assert_array_equal(values[full], preparation.apply(TABLE.iloc[full]))


def test_a_wholly_empty_table_is_medians_and_marks(preparation):
    lacking = "missing in 'member', 'height', .*, which lacked none in training: the median of its rows stands in"
    with pytest.warns(UserWarning, match=lacking):  # 'age' had gaps in training
        values = preparation.apply(pd.DataFrame(np.nan, index=[0], columns=list(TABLE)))
    assert column_of(preparation, values, "age")[0] == np.float32(TABLE["age"].median())
    assert column_of(preparation, values, "age_missing")[0] == 1
    assert column_of(preparation, values, "color_red")[0] == 0


def test_unseen_categories_are_all_zero(preparation):
    values = preparation.apply(TABLE.assign(color="mauve"))
    at = [index for index, name in enumerate(preparation.feature_names) if name.startswith("color_")]
    assert len(at) == 3
    assert not values[:, at].any()


def test_missing_columns_are_named(preparation):
    table = TABLE.rename(columns={"height": "hight"}).drop(columns="age")
    with pytest.raises(DataError, match=r"lacks .*'age', 'height' \(perhaps now called 'hight'\)"):
        preparation.apply(table)


def test_extra_columns_are_left_out_with_a_warning(preparation):
    with pytest.warns(UserWarning, match="left out: 'new'"):
        values = preparation.apply(TABLE.assign(new="u"))
    np.testing.assert_array_equal(values, preparation.apply(TABLE))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("age", "old", "column 'age' held numbers in the training rows, but row 3 holds 'old'"),
        ("member", "maybe", "column 'member' held numbers in the training rows, but row 3 holds 'maybe'"),
        ("when", "soon", "column 'when' held dates in the training rows, but row 3 holds 'soon'"),
        ("when", 12, "column 'when' held dates in the training rows, but row 3 holds 12"),
        ("stamp", "soon", "column 'stamp' held dates in the training rows, but row 3 holds 'soon'"),
        ("height", np.inf, "column 'height' is infinite, .* in row 3"),
        ("height", -1e39, "column 'height' is infinite, or beyond 3.4e.38, in row 3"),
        ("height", "inf", "column 'height' is infinite"),
    ],
)
def test_what_cannot_be_read_as_in_training_is_refused(preparation, name, value, message):
    table = TABLE.astype({name: object})
    table.loc[2, name] = value
    with pytest.raises(DataError, match=message):
        preparation.apply(table)


def test_numbers_in_strings_are_read(preparation):
    ages = ["" if age != age else str(age) for age in TABLE["age"]]
    table = TABLE.assign(height=TABLE["height"].astype(str), age=ages)
    np.testing.assert_array_equal(preparation.apply(table), preparation.apply(TABLE))


def test_codes_are_the_same_whether_read_as_strings_or_as_numbers():
    codes = ["10", "20", "A3"] * 5
    preparation = Preparation.fit(pd.DataFrame({"code": codes}))
    expected = preparation.apply(pd.DataFrame({"code": ["20", None, "10"]}))
    np.testing.assert_array_equal(preparation.apply(pd.DataFrame({"code": [20.0, np.nan, 10.0]})), expected)
    assert expected.sum(axis=1).tolist() == [1, 0, 1]


def test_strings_that_were_numbers_in_training_must_stay_numbers():
    preparation = Preparation.fit(pd.DataFrame({"n": ["1.5", "N/A", "2.5", "7"]}))
    assert preparation.feature_names == ["n", "n_missing"]
    np.testing.assert_array_equal(preparation.apply(pd.DataFrame({"n": ["N/A", "3"]})), [[2.5, 1], [3, 0]])
    with pytest.raises(DataError, match="'n' held numbers in the training rows, but row 2 holds 'x'"):
        preparation.apply(pd.DataFrame({"n": ["N/A", "x"]}))
    with pytest.raises(DataError, match="'n' is infinite"):
        preparation.apply(pd.DataFrame({"n": ["1", "inf"]}))


def test_booleans_with_gaps_are_numbers():
    preparation = Preparation.fit(pd.DataFrame({"b": [True, None, False, True]}))
    np.testing.assert_array_equal(preparation.apply(pd.DataFrame({"b": [True, False]})), [[1, 0], [0, 0]])
    assert preparation.feature_names == ["b", "b_missing"]


def test_an_array_of_numbers_passes_through():
    x = np.arange(6, dtype=np.float64).reshape(3, 2)
    x[1, 0] = np.nan
    preparation = Preparation.fit(x)
    np.testing.assert_array_equal(preparation.apply(x), [[0, 1, 0], [2, 3, 1], [4, 5, 0]])
    assert preparation.feature_names == ["0", "1", "0_missing"]
    with pytest.raises(DataError, match="lacks columns that training had: '1'"):
        preparation.apply(x[:, :1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column named 'a'"),
        (pd.DataFrame({"a": []}), "0 rows and 1 columns"),
        (pd.DataFrame({"a": [np.nan], "b": [None]}), "no column of the table holds anything"),
        (pd.DataFrame({"a": [" ", ""]}), "no column of the table holds anything"),
        (pd.DataFrame({"a": [1.0, np.inf]}), "column 'a' is infinite, .* in row 2"),
    ],
)
def test_tables_that_teach_nothing_are_refused(table, message):
    with pytest.raises(DataError, match=message):
        Preparation.fit(table)


@pytest.mark.parametrize("written", ["offset", "Z", "zone"])
def test_dates_with_a_time_zone_are_in_utc_and_can_be_read_back(tmp_path, written):
    hours = pd.date_range("2020-01-01", periods=60, freq="7h")
    days = {
        "offset": (hours + pd.Timedelta("2h")).strftime("%Y-%m-%dT%H:%M:%S+02:00"),
        "Z": hours.strftime("%Y-%m-%d %H:%M:%SZ"),
        "zone": hours.tz_localize("UTC").tz_convert("Asia/Tokyo"),
    }[written]
    table = pd.DataFrame({"when": days})
    preparation = Preparation.fit(table)
    plain = pd.DataFrame({"when": hours})
    np.testing.assert_array_equal(preparation.apply(table), Preparation.fit(plain).apply(plain))
    preparation.save(tmp_path / "p.skops")
    assert Preparation.load(tmp_path / "p.skops").apply(table).tobytes() == preparation.apply(table).tobytes()


def test_large_numbers_stay_apart():
    table = pd.DataFrame({"ms": 1_700_000_000_000 + 100.0 * np.arange(50), "id": 10**9 + np.arange(50), "n": range(50)})
    table.loc[7, "ms"] = np.nan
    preparation = Preparation.fit(table)
    x = preparation.apply(table)
    assert preparation.feature_names == ["ms", "id", "n", "ms_missing"]
    np.testing.assert_array_equal(x[:, 1], table["id"] - table["id"].median())
    np.testing.assert_array_equal(x[:, 2], table["n"])
    np.testing.assert_array_equal(x[:, 0], (table["ms"] - table["ms"].median()).fillna(0))


def test_a_few_words_among_numbers_are_pointed_out():
    cells = [f"{n}.5" for n in range(50)]
    with pytest.warns(
        UserWarning, match="column 'n' is taken for text, as 2 of 50 cells hold no number, such as 'bad'"
    ):
        fitted = Preparation.fit(pd.DataFrame({"n": [*cells[:48], "bad", "worse"]}))
    assert fitted.text_columns == ["n"]
    for others in ([*cells[:30], *["bad", "worse"] * 10], [*[f"0{n}" for n in range(48)], "x1", "x2"]):
        Preparation.fit(pd.DataFrame({"n": others}))  # a warning would be an error


def test_marks_of_missing_values_with_a_space_among_numbers_are_pointed_out():
    cells = [f"{n}.5" if n % 3 else "n/a " for n in range(60)]
    with pytest.warns(UserWarning, match="'n' is taken for text, as 20 of 60 cells hold no number, such as 'n/a'"):
        Preparation.fit(pd.DataFrame({"n": cells}))


@pytest.mark.parametrize(
    "form", ["{},{:02d}", "${},{:03d}.00", "{}.{} kg", "{}.{} %", "{}.{}%", "{} {:03d}", "-{}.{}°"]
)
def test_numbers_with_more_to_them_are_pointed_out(form):
    cells = [form.format(n + 1, n) for n in range(100)]
    with pytest.warns(UserWarning, match="'n' is taken for text, as 100 of 100 cells hold more than a number, such as"):
        assert Preparation.fit(pd.DataFrame({"n": cells})).text_columns == ["n"]


@pytest.mark.parametrize("form", ["1.{}.{}", "10.0.{}.{}", "{} High Street {}", "A{}-{}", "0{} {}", "{}x{}"])
def test_what_only_begins_like_a_number_is_text_without_a_word(form):
    Preparation.fit(pd.DataFrame({"n": [form.format(n + 1, n) for n in range(100)]}))  # a warning would be an error


def test_columns_of_text_are_named_for_the_reader(preparation):
    assert set(preparation.text_columns) == {"color", "street", "kind"}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("  ab\t\n\u00a0")), min_size=1, max_size=5))
def test_pieces_of_words_add_up_to_those_of_texts(texts):
    whole = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 3), n_features=1024, alternate_sign=False, norm=None, dtype=np.float32
    )
    np.testing.assert_array_equal(_count_pieces(texts).toarray(), whole.transform(texts).toarray())


class TestFiles:
    @pytest.mark.parametrize("names", [list(TABLE), ["age", "height"], ["color"], ["street"], ["when"]])
    def test_a_round_trip_changes_no_bit(self, tmp_path, names):
        preparation = Preparation.fit(TABLE[names])
        preparation.save(tmp_path / "p.skops")
        again = Preparation.load(tmp_path / "p.skops")
        assert preparation.apply(TABLE[names]).tobytes() == again.apply(TABLE[names]).tobytes()
        assert (again.columns, again.feature_names) == (names, preparation.feature_names)

    def test_exactly_the_types_that_are_needed_are_trusted(self, tmp_path, preparation):
        preparation.save(tmp_path / "p.skops")
        assert skops.io.get_untrusted_types(file=tmp_path / "p.skops") == sorted(_TRUSTED)

    def test_other_types_are_refused_by_name(self, tmp_path):
        skops.io.dump({"format": 1, "encoders": FunctionTransformer(func=subprocess.run)}, tmp_path / "p.skops")
        with pytest.raises(RunError, match=r"no preparation does, .*subprocess\.run"):
            Preparation.load(tmp_path / "p.skops")

    @pytest.mark.parametrize("content", [{"format": 2}, {"format": 1, "columns": []}, [1], "format"])
    def test_other_content_is_refused(self, tmp_path, content):
        skops.io.dump(content, tmp_path / "p.skops")
        with pytest.raises(RunError, match="not a preparation of format 1"):
            Preparation.load(tmp_path / "p.skops")

    @pytest.mark.parametrize(
        "damage",
        [lambda b: b"", lambda b: b"text", lambda b: b[:-100], lambda b: b[:200] + b"\xff\xff\xff\xff" + b[204:]],
        ids=["empty", "text", "short", "changed"],
    )
    def test_damaged_files_are_refused(self, tmp_path, damage):
        path = tmp_path / "p.skops"
        Preparation.fit(TABLE[["age", "color"]]).save(path)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(RunError, match="cannot be read as a preparation") as caught:
            Preparation.load(path)
        assert str(path) in str(caught.value)

    def test_a_schema_that_lacks_a_part_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "p.skops", "w") as archive:
            archive.writestr("schema.json", "{}")
        with pytest.raises(RunError, match="cannot be read"):
            Preparation.load(tmp_path / "p.skops")

    def test_a_file_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="No such file"):
            Preparation.load(tmp_path / "p.skops")


def test_what_skrub_cannot_read_is_refused_by_name():
    stamps = pd.DataFrame({"stamp": TABLE["stamp"]}).convert_dtypes(dtype_backend="pyarrow")
    with pytest.raises(DataError, match="cannot be read: .*on column 'stamp'"):
        Preparation.fit(stamps)


def test_importing_is_cheap():
    code = "import sys, laddernet; before = set(sys.modules); import laddernet.preparation, laddernet.data.files; "
    code += "print(sorted({'skrub', 'skops', 'pyarrow', 'pandas'} & (set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_file_may_unpack_to_grows_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("laddernet.preparation.MOST_BYTES", 0)
    made, path = Preparation.fit(TABLE.assign(**{f"c{i}": TABLE["color"] for i in range(20)})), tmp_path / "a.skops"
    made.save(path)
    with zipfile.ZipFile(path) as archive:
        assert 20 < sum(entry.file_size for entry in archive.infolist()) / path.stat().st_size < MOST_TIMES / 2
    assert Preparation.load(path).feature_names == made.feature_names
