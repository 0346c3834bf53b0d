"""Whatever is wrong with what is given, the error is a clear one of ours, raised early, and nothing is lost."""

import copy
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from typer.testing import CliRunner

from laddernet import Ladder, LadderClassifier, LaddernetError, LadderRegressor
from laddernet.cli import app
from laddernet.networks import mlp
from laddernet.noise import VirtualAdversarial
from laddernet.training import TrainingConfig

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(30, 4))
Y = np.where(np.arange(30) < 12, np.arange(30) % 2, -1)


@pytest.fixture(scope="module")
def fitted() -> LadderClassifier:
    model = LadderClassifier((5,), max_epochs=1, batch_size=10, random_state=0, device="cpu")
    return model.fit(pd.DataFrame(X, columns=list("abcd")), Y)


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 0), st.just(10**30), st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=3), st.binary(max_size=2),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2), st.just(object()),
    st.just(np.array([1.0, 2.0])), st.just(torch.zeros(2)),
)  # fmt: skip
"""What no argument, or hardly any, should be."""


def check_refusal(make: Callable[[], object], name: str) -> None:
    """Either it can be used, or the error names the argument and is raised by a check, of ours or scikit-learn's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large noise, scikit-learn's of odd data
            make()
    except LaddernetError:
        return
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError)) or name not in str(error):
            raise AssertionError(f"{type(error).__name__} came out for {name}: {error}") from error


CONFIG = list(TrainingConfig.__dataclass_fields__)
LADDER = [
    "rungs", "input_shape", "mirrors", "noise_std", "denoising_weights", "variant", "combinator", "corruption", "task",
    "supervised_path", "detach_targets", "joint_statistics", "weight_normalization", "generator",
]  # fmt: skip
ESTIMATOR = sorted(set(LadderClassifier().get_params()) - {"random_state", "verbose"})
"""A seed may be many things to scikit-learn; what is shown is for no machine to read."""


@given(name=st.sampled_from(CONFIG), value=STRANGE)
@settings(max_examples=150)
def test_training_settings(name: str, value: Any) -> None:
    check_refusal(lambda: TrainingConfig(**{name: value}), name)


@given(name=st.sampled_from(LADDER), value=STRANGE)
@settings(max_examples=60, deadline=None)
def test_ladder_arguments(name: str, value: Any) -> None:
    check_refusal(lambda: Ladder(mlp([4, 5, 2]), **{name: value}), name)


def is_small(value: Any) -> bool:
    return not isinstance(value, (int, float)) or abs(value) < 1000


@given(name=st.sampled_from(ESTIMATOR), value=STRANGE.filter(is_small))
@settings(max_examples=60, deadline=None)
def test_estimator_arguments(name: str, value: Any) -> None:
    arguments = {"hidden_layer_sizes": (5,), "max_epochs": 1, "batch_size": 10, "random_state": 0, "device": "cpu"}
    check_refusal(lambda: LadderClassifier(**arguments | {name: value}).fit(X, Y), name)  # type: ignore[arg-type]


@pytest.mark.slow
@given(name=st.sampled_from(ESTIMATOR), value=STRANGE.filter(is_small))
@settings(max_examples=1500, deadline=None)
def test_estimator_arguments_for_long(name: str, value: Any) -> None:
    arguments = {"hidden_layer_sizes": (5,), "max_epochs": 1, "batch_size": 10, "random_state": 0, "device": "cpu"}
    check_refusal(lambda: LadderClassifier(**arguments | {name: value}).fit(X, Y), name)  # type: ignore[arg-type]


@given(value=STRANGE)
def test_adversarial_noise(value: Any) -> None:
    check_refusal(lambda: VirtualAdversarial(value), "share")
    check_refusal(lambda: VirtualAdversarial(probe=value), "probe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_std": -0.1}, "noise_std must be finite and not negative, got -0.1"),
        ({"noise_std": (0.3, 0.3)}, "noise_std must be one number or 3 of them"),
        ({"noise_std": "much"}, "noise_std must be a sequence of numbers, got 'much'"),
        ({"denoising_weights": (1, 2)}, "denoising_weights must have 3 entries"),
        ({"denoising_weights": (1, -2, 3)}, r"denoising_weights must be finite and not negative, got \(1, -2, 3\)"),
        ({"denoising_weights": "all"}, "denoising_weights must be 'auto' or one number a layer, got 'all'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2: one row has no variance"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"max_epochs": -3}, "max_epochs must be at least 1, got -3"),
        ({"max_epochs": "long"}, "max_epochs must be 'auto' or a whole number, got 'long'"),
        ({"learning_rate": np.nan}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"decay_start": 1.5}, "decay_start must be between 0 and 1, got 1.5"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\), got 1.0"),
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes .*each at least 1, got"),
        ({"hidden_layer_sizes": 5}, "hidden_layer_sizes must be 'auto' or a sequence of widths.*got 5"),
        ({"variant": "delta"}, "variant must be one of full, gamma, bottom, baseline, got 'delta'"),
        ({"combinator": "best"}, "combinator must be one of .*gaussian.*, got 'best'"),
        ({"input_scaling": None}, "input_scaling must be one of auto, .*, got None"),
        ({"early_stopping": "yes", "validation_fraction": 0.2}, "early_stopping must be True or False, got 'yes'"),
        ({"ladder_options": ["x"]}, r"ladder_options must be a mapping of names to values, or None, got \['x'\]"),
        ({"training_options": {"depth": 1}}, "training_options has 'depth'; known are averaged_epochs, decay"),
        ({"device": 0}, "device must be a device's name.*got 0"),
        ({"random_state": "x"}, "random_state must be a whole number, a RandomState or None"),
        ({"class_weight": [1, 2]}, "class_weight must be a mapping of classes to weights, or 'balanced'"),
        ({"column_weights": "abc"}, "column_weights must be numbers, one a column, got 'abc'"),
    ],
)
def test_absurd_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    model = LadderClassifier(**{"hidden_layer_sizes": (5,), "max_epochs": 1, "batch_size": 10, **arguments})
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X, Y)
    assert not hasattr(model, "ladder_")


# Rows of another form than in training.

ROWS: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: np.where(np.eye(4) > 0, np.nan, 1.0), "contains NaN"),
    "infinity": (lambda: np.where(np.eye(4) > 0, np.inf, 1.0), "contains infinity"),
    "fewer columns": (lambda: X[:, :3], "X has 3 features, but LadderClassifier is expecting 4"),
    "more columns": (lambda: np.hstack([X, X]), "X has 8 features, but LadderClassifier is expecting 4"),
    "one row": (lambda: X[0], "Expected 2D array, got 1D array"),
    "no rows": (lambda: X[:0], "0 sample"),
    "no columns": (lambda: X[:, :0], "0 feature"),
    "words": (lambda: [["a", "b", "c", "d"]], "could not convert string to float|dtype"),
    "complex": (lambda: X + 1j, "Complex data not supported"),
    "other names": (lambda: pd.DataFrame(X, columns=list("abce")), "feature names"),
    "other order": (lambda: pd.DataFrame(X, columns=list("badc")), "order"),
    "a name less": (lambda: pd.DataFrame(X[:, :3], columns=list("abc")), "feature names"),
    "a name more": (lambda: pd.DataFrame(np.hstack([X, X[:, :1]]), columns=list("abcde")), "feature names"),
    "a text column": (
        lambda: pd.DataFrame(X, columns=list("abcd")).assign(b="x"),
        "columns that do not hold numbers: b",
    ),
    "dates": (lambda: np.full((2, 4), np.datetime64("2020-01-01")), "X holds dates or durations"),
    "None": (lambda: None, "None|array"),
    "ragged": (lambda: [[1, 2, 3, 4], [1, 2]], "inhomogeneous|sequence"),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("fault", ROWS)
@pytest.mark.parametrize("answer", ["predict", "predict_proba", "transform", "denoise"])
def test_rows_of_another_form_are_refused(fitted: LadderClassifier, fault: str, answer: str) -> None:
    rows, message = ROWS[fault]
    with pytest.raises(ValueError, match=message):
        getattr(fitted, answer)(rows())


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("fault", [name for name in ROWS if name not in ("None", "ragged")])
def test_rows_of_another_form_do_not_change_a_model(fitted: LadderClassifier, fault: str) -> None:
    model, rows = copy.deepcopy(fitted), ROWS[fault][0]()
    before = {name: value.clone() for name, value in model.ladder_.state_dict().items()}
    with pytest.raises(ValueError, match=ROWS[fault][1]):
        model.partial_fit(rows, np.full(len(rows), -1))
    for name, value in model.ladder_.state_dict().items():
        assert torch.equal(value, before[name])


LABELS: dict[str, tuple[Any, str]] = {
    "too few": (Y[:-1], "inconsistent numbers of samples"),
    "one class": (np.where(Y >= 0, 1, -1), "one class only"),
    "none": (np.full(30, -1), "no row has a label"),
    "infinite": (np.where(Y == 1, np.inf, Y), "infinity"),
    "a table": (np.zeros((30, 2)), "y should be a 1d array|1d"),
    "fractions": (np.where(Y == 1, 0.5, Y), "continuous"),
    "empty": ([], "inconsistent numbers of samples|no row"),
    "nothing": (None, "requires y to be passed"),
}


@pytest.mark.parametrize("fault", LABELS)
def test_labels_that_cannot_be_used_are_refused(fault: str) -> None:
    y, message = LABELS[fault]
    with pytest.raises(ValueError, match=message):
        LadderClassifier((5,), max_epochs=1).fit(X, y)


def test_labels_that_training_had_not_are_refused(fitted: LadderClassifier) -> None:
    with pytest.raises(ValueError, match=re.escape("y has classes that the model was not made for: 7; it knows 0, 1")):
        copy.deepcopy(fitted).partial_fit(pd.DataFrame(X, columns=list("abcd")), np.where(Y == 1, 7, Y))


def test_numbers_that_are_no_labels_of_a_regression() -> None:
    with pytest.raises(ValueError, match="Input y contains infinity"):
        LadderRegressor((5,), max_epochs=1).fit(X, np.where(Y == 1, np.inf, Y.astype(float)))
    with pytest.raises(ValueError, match="y must hold numbers"):
        LadderRegressor((5,), max_epochs=1).fit(X, np.array(["a", "b", "c"] * 10, dtype=object))


# The command line: a table's faults, each at training and at prediction.

TABLE = pd.DataFrame({
    "size": NUMBERS.normal(size=40).round(3),
    "count": NUMBERS.integers(9, size=40),
    "kind": NUMBERS.choice(["red", "green"], size=40),
    "label": [*(["yes", "no"] * 10), *([None] * 20)],
})  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    TABLE.to_csv(folder / "table.csv", index=False)
    asked = ["train", str(folder / "table.csv"), "--label-column", "label", "--epochs", "1", "--no-baseline"]
    outcome = CliRunner().invoke(app, [*asked, "--device", "cpu", "--out", str(folder / "run")])
    assert outcome.exit_code == 0, outcome.output
    return folder / "run"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CSV = TABLE.to_csv(index=False)
FILES: dict[str, tuple[str | bytes, str]] = {  # what a file holds, what both commands say
    "empty": ("", "is empty"),
    "a header alone": (CSV.splitlines()[0] + "\n", "no data"),
    "semicolons": (CSV.replace(",", ";"), "separated by a semicolon, not by a comma"),
    "tabs": (CSV.replace(",", "\t"), "separated by a tab, not by a comma"),
    "UTF-16": (CSV.encode("utf-16"), "is not UTF-8 text"),
    "Latin-1": (CSV.replace("red", "ro\u00df").encode("latin-1"), "is not UTF-8 text"),
    "cut short": (CSV[: CSV.rindex(",", 0, CSV.rindex(","))], "ends in the middle of a line, after 2 of 4 cells"),
    "a quote that does not end": (CSV.replace("red", '"red', 1), "a quotation mark that is never closed"),
    "a longer line": (CSV + "1,2,red,yes,5,6\n", "lines with more cells than columns"),
    "a name twice": (CSV.replace("count", "size", 1), "more than one column named 'size'"),
    "bytes": (bytes(range(128, 256)), "is not UTF-8 text"),
    "a binary that ends": (b"PAR1", "column|no data|lacks"),
}
FILES_TO_PREDICT = FILES | {
    "a column less": (TABLE.drop(columns="size").to_csv(index=False), "lacks columns that training had: 'size'"),
    "a renamed column": (TABLE.rename(columns={"size": "sizes"}).to_csv(index=False), "perhaps now called 'sizes'"),
    "words among numbers": (CSV.replace(CSV.split("\n")[3].split(",")[0], "large", 1), "'large'"),
    "infinite": (re.sub(r"^-?\d\.\d+,", "inf,", CSV, count=1, flags=re.M), "'size' is infinite"),
}  # fmt: skip


def failure(*arguments: str) -> str:
    """What a command that fails says: one line, no traceback, exit status 1."""
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 1, outcome.output
    text = " ".join(outcome.output.split())
    assert "laddernet: " in text
    assert "Traceback" not in text
    assert "--debug shows where" not in text, text  # it was no error that anybody had thought of
    return text


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_cannot_be_trained_on(tmp_path: Path, fault: str) -> None:
    content, message = FILES[fault]
    path = written(tmp_path / "table.csv", content)
    out = tmp_path / "run"
    said = failure("train", str(path), "--label-column", "label", "--epochs", "1", "--out", str(out))
    assert re.search(message, said), said
    assert str(path.name) in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("fault", FILES_TO_PREDICT)
def test_a_file_that_cannot_be_predicted(tmp_path: Path, trained: Path, fault: str) -> None:
    content, message = FILES_TO_PREDICT[fault]
    path, out = written(tmp_path / "table.csv", content), tmp_path / "predictions.csv"
    said = failure("predict", str(trained), str(path), "--out", str(out))
    assert re.search(message, said), said
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def predictions(trained: Path, path: Path) -> str:
    out = path.with_name("predictions.csv")
    outcome = CliRunner().invoke(app, ["predict", str(trained), str(path), "--out", str(out), "--overwrite"])
    assert outcome.exit_code == 0, outcome.output
    return out.read_text()


def test_columns_are_found_by_name(tmp_path: Path, trained: Path) -> None:
    expected = predictions(trained, written(tmp_path / "table.csv", CSV))
    other_order = TABLE[["label", "kind", "count", "size"]].to_csv(index=False)
    assert predictions(trained, written(tmp_path / "table.csv", other_order)) == expected
    with_mark = b"\xef\xbb\xbf" + TABLE.to_csv(index=False).encode()
    assert predictions(trained, written(tmp_path / "table.csv", with_mark)) == expected
    with pytest.warns(UserWarning, match="columns that training did not have are left out: 'new'"):
        assert (
            predictions(trained, written(tmp_path / "table.csv", TABLE.assign(new=1).to_csv(index=False))) == expected
        )


def test_classes_that_training_had_not_are_named_at_a_test(tmp_path: Path, trained: Path) -> None:
    path = written(tmp_path / "test.csv", CSV.replace("yes", "maybe"))
    with pytest.warns(UserWarning, match="classes that training had not, 'maybe'"):
        outcome = CliRunner().invoke(app, ["evaluate", str(trained), str(path)])
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize(
    "option",
    [("--epochs", "0"), ("--epochs", "many"), ("--seed", "-1"), ("--test-fraction", "2"), ("--labels", "0"),
     ("--precision", "float8"), ("--variant", "delta"), ("--image-size", "2"), ("--task", "guess"),
     ("--checkpoint-minutes", "0"), ("--validation-fraction", "-1")],
)  # fmt: skip
def test_options_out_of_range(tmp_path: Path, option: tuple[str, str]) -> None:
    path = written(tmp_path / "table.csv", CSV)
    outcome = CliRunner().invoke(app, ["train", str(path), "--label-column", "label", *option])
    assert outcome.exit_code == 2
    assert option[0] in outcome.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"noise_std": -1}, "noise_std must be finite and not negative, got -1"),
        ({"batch_size": "large"}, "batch_size must be a whole number, got 'large'"),
        ({"hidden_layer_sizes": [5, None]}, "hidden_layer_sizes"),
        ({"hidden_layers": [5]}, "settings only; it has hidden_layers"),
        ([1], "must hold a JSON object"),
    ],
)
def test_settings_files(tmp_path: Path, content: Any, message: str) -> None:
    path, chosen = written(tmp_path / "table.csv", CSV), written(tmp_path / "settings.json", json.dumps(content))
    out = tmp_path / "run"
    said = failure(
        "train", str(path), "--label-column", "label", "--settings", str(chosen), "--epochs", "1", "--out", str(out)
    )
    assert message in said
    assert not out.exists()


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_predicted_or_refused_by_name(tmp_path: Path, trained: Path, data: st.DataObject) -> None:
    """Columns left out, renamed, moved, filled with other kinds: a row each, or an error that names a column."""
    table = TABLE.copy()
    for name in data.draw(st.lists(st.sampled_from(["size", "count", "kind"]), unique=True, max_size=3)):
        table[name] = data.draw(
            st.sampled_from([1e39, "word", "", None, True, "2020-01-01", "007", -1, "NaN", "\u00e9"]), label=name
        )
    kept = data.draw(st.permutations(list(table.columns)))[: data.draw(st.integers(1, 4))]
    path = written(tmp_path / "drawn.csv", table[kept].to_csv(index=False))
    out = tmp_path / "drawn predictions.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = CliRunner().invoke(app, ["predict", str(trained), str(path), "--out", str(out), "--overwrite"])
    if outcome.exit_code == 0:
        assert len(pd.read_csv(out)) == len(TABLE)
        return
    said = " ".join(outcome.output.split())
    assert outcome.exit_code == 1
    assert "--debug shows where" not in said, said
    assert any(repr(name) in said for name in TABLE) or str(path) in said, said


# What the doors let in without a word before, or refused in another library's.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame(X, columns=list("abca")), "X has more than one column named a"),
        (pd.DataFrame(X, columns=list("abcd")).assign(a=pd.Timestamp("2020-01-01")), "hold dates or durations: a"),
        (np.full(X.shape, np.datetime64("2020-01-01")), "X holds dates or durations"),
        (np.ma.masked_array(X, X > 1), "X is a masked array"),
        (np.full(X.shape, 10**400, dtype=object), "X holds a number that is too large"),
    ],
)
def test_rows_that_would_be_taken_for_others(rows: Any, message: str) -> None:
    model = LadderClassifier((5,), max_epochs=1, batch_size=10, random_state=0).fit(X, Y)
    for use in (
        lambda: LadderClassifier((5,), max_epochs=1).fit(rows, Y),
        lambda: model.partial_fit(rows, Y),
        lambda: model.predict(rows),
        lambda: model.score(rows, Y),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(30, np.datetime64("2020-01-01")), "y holds dates or durations"),
        (np.full(30, 10**400, dtype=object), "y must hold numbers|is too large|too large"),
        (np.full(30, 1j), "Complex data not supported"),
    ],
)
def test_amounts_that_are_none(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LadderRegressor((5,), max_epochs=1).fit(X, y)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "y holds no class"),
        ([0], "y holds one class only, 0"),
        ([-1, 0, 1], "classes has -1, which marks a row without a label"),
        ([0.0, np.nan, 1.0], "classes has nan, which marks a row without a label"),
        ([[0, 1], [0, 1]], "1d array"),
    ],
)
def test_classes_that_are_none(classes: Any, message: str) -> None:
    model = LadderClassifier((5,), batch_size=10)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, Y, classes=classes)
    assert not hasattr(model, "ladder_")


WEIGHTS = [["a"] * 30, [None, *[object()] * 29], np.full(30, 1j), [10**400] * 30, np.full(30, np.datetime64("2020"))]


@pytest.mark.parametrize("weight", WEIGHTS, ids=["text", "objects", "complex", "huge", "dates"])
def test_weights_of_rows_that_are_no_numbers(weight: Any) -> None:
    model = LadderClassifier((5,), max_epochs=1, batch_size=10, random_state=0).fit(X, Y)
    for use in (
        lambda: LadderClassifier((5,), max_epochs=1).fit(X, Y, sample_weight=weight),
        lambda: model.score(X, Y, sample_weight=weight),
    ):
        with pytest.raises(ValueError, match="sample_weight must hold numbers"):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_std": 1e30}, "noise_std must be at most 1e.*got 1e"),
        ({"noise_std": 10**400}, "noise_std must be finite and not negative, got a number of more than 30 digits"),
        ({"batch_size": 10**30}, "batch_size must be at most 2147483647, got a number of more than 30 digits"),
        ({"max_epochs": 2**31}, "max_epochs must be at most 2147483647, got 2147483648"),
        ({"random_state": -1}, "random_state must be at least 0, got -1"),
        ({"random_state": 2**32}, "random_state must be at most 4294967295, got 4294967296"),
        ({"hidden_layer_sizes": (10**8, 10**8)}, r"the widths \[4, 100000000, 100000000, 2\] takes .* GiB, more than"),
    ],
)
def test_settings_that_are_too_large(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LaddernetError, match=message):
        LadderClassifier(**{"hidden_layer_sizes": (5,), "max_epochs": 1, "batch_size": 10, **arguments}).fit(X, Y)


FILES_CUT = {
    "in a line": (CSV.rstrip()[: CSV.rstrip().rfind("\n") + 6], "ends in the middle of a line, after 1 of 4 cells"),
    "UTF-16 without a mark": (CSV.encode("utf-16-le"), "bytes of zero in its header, as text of UTF-16 has"),
    "quoted lines": ("\n".join(f'"{line}"' for line in CSV.splitlines()), "quotation marks stand around whole lines"),
}


@pytest.mark.fault(
    "a CSV is cut short, in another encoding or wholly quoted", "an error that names it; nothing is written"
)
@pytest.mark.parametrize("fault", FILES_CUT)
def test_a_file_that_would_be_taken_for_another(tmp_path: Path, trained: Path, fault: str) -> None:
    content, message = FILES_CUT[fault]
    path, out = written(tmp_path / "table.csv", content), tmp_path / "run"
    said = failure("train", str(path), "--label-column", "label", "--epochs", "1", "--out", str(out))
    assert message in said
    for command in (("evaluate", str(trained), str(path)), ("predict", str(trained), str(path))):
        assert message in failure(*command)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_a_last_line_without_its_end_is_a_line(tmp_path: Path, trained: Path) -> None:
    expected = predictions(trained, written(tmp_path / "table.csv", CSV))
    assert predictions(trained, written(tmp_path / "table.csv", CSV.rstrip("\n"))) == expected
    assert predictions(trained, written(tmp_path / "table.csv", CSV.rstrip("\n").replace("\n", "\r\n"))) == expected


def test_what_is_wrong_with_a_column_says_in_which_file(tmp_path: Path, trained: Path) -> None:
    path = written(tmp_path / "renamed.csv", TABLE.rename(columns={"size": "sizes"}).to_csv(index=False))
    for command in ("evaluate", "predict"):
        assert f"{path}: the table lacks columns" in failure(command, str(trained), str(path))


@pytest.mark.parametrize("name", ["X.npz", "X.npy"])
def test_what_is_no_array_is_not_said_to_be_a_pickle(tmp_path: Path, trained: Path, name: str) -> None:
    said = failure("predict", str(trained), str(written(tmp_path / name, CSV)), "--out", str(tmp_path / "out.csv"))
    assert "does not begin as numpy's files do" in said
    assert "pickle" not in said


def test_values_that_are_missing_where_none_were_are_told(tmp_path: Path, trained: Path) -> None:
    path = written(tmp_path / "gaps.csv", TABLE.assign(size=np.nan).to_csv(index=False))
    with pytest.warns(UserWarning, match="values are missing in 'size', which lacked none in training"):
        predictions(trained, path)


@pytest.mark.parametrize("seeds", ["0-99999999999", "1-0", "-3", "a", "4294967296", "0-20000", "1,,2", "\u0663"])
def test_seeds_that_are_none(seeds: str) -> None:
    outcome = CliRunner().invoke(app, ["reproduce", "digits-50", "--seeds", seeds])
    assert outcome.exit_code == 2
    assert "--seeds" in outcome.output


def test_a_settings_file_is_refused_before_the_table_is_read(tmp_path: Path) -> None:
    chosen = written(tmp_path / "settings.json", json.dumps({"learning_rate": "1e-3"}))
    said = failure("train", "nowhere.csv", "--settings", str(chosen), "--out", str(tmp_path / "run"))
    assert f"{chosen}: learning_rate must be a number, got '1e-3'" in said


@pytest.mark.parametrize("sparse", [False, True])
def test_numbers_beyond_float32_are_refused(sparse: bool) -> None:
    rows = csr_array(X * 1e300) if sparse else X * 1e300
    with pytest.raises(ValueError, match=r"X holds a number beyond 3.4e\+38"):
        LadderClassifier(max_epochs=1).fit(rows, Y)
