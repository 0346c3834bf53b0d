import dataclasses
import json

import numpy as np
import optuna
import pandas as pd
import pytest

from conftest import sections
from laddernet import DataError, LadderClassifier, LadderRegressor, RunError, TrainingError
from laddernet.tables import FileOptions, Prepared, prepare, read_settings, settings_for, write_settings
from laddernet.tuning import tune


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 3
    frame = pd.DataFrame({"a": kind + rng.normal(0, 0.8, 60), "b": rng.normal(size=60), "kind": kind})
    frame.loc[:11, "kind"] = np.nan
    frame.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.fixture
def prepared(path):
    return prepare(path, FileOptions(label_column="kind"))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "a folder" / "search.journal"


def search(prepared, storage, trials=3, **others):
    return tune(prepared, storage=storage, trials=trials, **{"folds": 2, "max_epochs": 1, "seed": 0, **others})


def trials_of(storage):
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(storage)))
    return optuna.load_study(study_name="laddernet", storage=journal).trials


def widths_of(model):
    return [len(section.map.weight) for section in sections(model.ladder_)[:-1]]


def finished(storage):
    """Settings and errors of those trials that count."""
    return [(t.user_attrs["settings"], t.value) for t in trials_of(storage) if t.state.name in ("COMPLETE", "PRUNED")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Troubled(Prepared):
    """Rows of which some trainings, by their number, diverge or are interrupted."""

    trouble: dict
    count: list = dataclasses.field(default_factory=list)

    def estimator(self, **settings):
        if not settings:  # only asked for its defaults
            return super().estimator()
        self.count.append(settings)
        kind = self.trouble.get(len(self.count))
        if kind == "interrupt":
            raise KeyboardInterrupt
        return super().estimator(**settings | ({"learning_rate": 1e30, "max_epochs": 3} if kind == "diverge" else {}))


def troubled(prepared, trouble):
    return Troubled(**vars(prepared), trouble=trouble)


def test_the_first_trial_has_the_defaults(prepared, storage):
    told = []
    tuned = search(prepared, storage, on_trial=lambda *of_trial: told.append(of_trial))
    defaults = LadderClassifier(max_epochs=1, random_state=0).fit(prepared.x_train, prepared.y_train)
    first, error = finished(storage)[0]
    assert first["hidden_layer_sizes"] == list(widths_of(defaults))
    assert first["noise_std"] == defaults.noise_std
    assert first["denoising_weights"] == pytest.approx(list(defaults.ladder_.denoising_weights), rel=0.01)
    assert tuned.default_error == error
    assert [number for number, _, _ in told] == [1, 2, 3]
    assert [error for _, error, _ in told] == [error for _, error in finished(storage)]
    assert [best for _, _, best in told] == list(np.minimum.accumulate([error for _, error, _ in told]))


def test_what_is_found_is_the_best_trial_and_the_estimators_take_it(prepared, storage, tmp_path):
    tuned = search(prepared, storage, trials=4)
    best = min(finished(storage), key=lambda trial: trial[1])
    assert (tuned.settings, tuned.error) == best
    assert tuned.trials == 4
    assert tuned.settings["max_epochs"] == 1
    write_settings(tmp_path / "best.json", tuned.settings)
    model = prepared.estimator(**settings_for(prepared, read_settings(tmp_path / "best.json")), random_state=0)
    model.fit(prepared.x_train, prepared.y_train)
    assert list(model.hidden_layer_sizes) == tuned.settings["hidden_layer_sizes"]


def test_the_error_is_the_mean_over_the_folds(prepared, storage):
    from laddernet.model_selection import LabeledKFold

    tuned = search(prepared, storage, trials=1, folds=3, seed=5)
    errors = []
    for training, test in LabeledKFold(3, task="classification", random_state=5).split(None, prepared.y_train):
        weights = prepared.preparation.column_weights
        model = LadderClassifier(**tuned.settings, column_weights=weights, random_state=5)
        model.fit(prepared.x_train[training], prepared.y_train[training])
        errors.append(100 * np.mean(model.predict(prepared.x_train[test]) != prepared.y_train[test]))
    assert tuned.error == tuned.default_error == pytest.approx(np.mean(errors), abs=1e-4)


def test_a_search_goes_on_and_nothing_is_done_twice(prepared, storage):
    counted = troubled(prepared, {})
    search(counted, storage, trials=2)
    assert len(counted.count) == 4  # a training for each trial and fold
    earlier = finished(storage)
    tuned = search(counted, storage, trials=3)
    assert len(counted.count) == 6
    assert finished(storage)[:2] == earlier
    before = storage.read_bytes()
    assert search(counted, storage, trials=3) == tuned
    assert search(counted, storage, trials=1) == tuned
    assert len(counted.count) == 6
    assert storage.read_bytes() == before


def test_the_trials_depend_on_the_seed_alone_and_not_on_interruptions(prepared, tmp_path):
    search(prepared, tmp_path / "whole", trials=4)
    for trials in (1, 3, 4):
        search(prepared, tmp_path / "parts", trials=trials)
    search(prepared, tmp_path / "other", trials=2, seed=1)
    assert finished(tmp_path / "parts") == finished(tmp_path / "whole")
    settings = [settings for settings, _ in finished(tmp_path / "whole")]
    assert len({json.dumps(each) for each in settings}) == 4
    assert finished(tmp_path / "other")[1][0] not in settings


@pytest.mark.parametrize("training", [1, 4])
def test_an_interrupted_search_keeps_its_finished_trials_and_goes_on(prepared, tmp_path, training):
    search(prepared, tmp_path / "whole", trials=3)
    with pytest.raises(KeyboardInterrupt):
        search(troubled(prepared, {training: "interrupt"}), tmp_path / "broken", trials=3)
    done = (training - 1) // 2
    assert finished(tmp_path / "broken") == finished(tmp_path / "whole")[:done]
    counted = troubled(prepared, {})
    tuned = search(counted, tmp_path / "broken", trials=3)
    assert len(counted.count) == 2 * (3 - done)
    assert finished(tmp_path / "broken") == finished(tmp_path / "whole")
    assert tuned == search(prepared, tmp_path / "whole", trials=3)


def test_a_trial_that_diverges_counts_and_the_search_goes_on(prepared, storage):
    told = []
    rows = troubled(prepared, {3: "diverge", 5: "diverge"})  # the second trial's first fold, the third's second
    tuned = search(rows, storage, trials=4, on_trial=lambda *of_trial: told.append(of_trial))
    assert [trial.state.name for trial in trials_of(storage)] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [number for number, _, _ in told] == [1, 2, 3, 4]
    assert np.isnan(told[1][1])
    assert tuned.trials == 4
    assert tuned.error in [trial.value for trial in trials_of(storage) if trial.state.name == "COMPLETE"]
    assert search(rows, storage, trials=4) == tuned
    assert len(rows.count) == 7


def test_where_the_defaults_diverge_no_other_trial_stands_for_them(prepared, storage):
    tuned = search(troubled(prepared, {1: "diverge"}), storage, trials=2)
    assert np.isnan(tuned.default_error)
    assert np.isfinite(tuned.error)


def test_where_every_trial_diverges_the_search_ends_and_says_so(prepared, storage):
    always = troubled(prepared, dict.fromkeys(range(1, 9), "diverge"))
    with pytest.raises(TrainingError, match="none of the 2 trials could be trained to the end.*Check the input"):
        search(always, storage, trials=2)
    assert len(always.count) == 2
    assert search(prepared, storage, trials=3).trials == 3


@pytest.mark.parametrize("change", ["labels", "columns", "folds", "max_epochs", "seed"])
def test_a_storage_of_another_search_is_refused_and_left(path, prepared, storage, change):
    search(prepared, storage, trials=1)
    before = storage.read_bytes()
    options = {"folds": 3, "max_epochs": 2, "seed": 1}
    others = {change: options[change]} if change in options else {}
    if change == "labels":
        prepared = prepare(path, FileOptions(label_column="kind", labels=30))
    elif change == "columns":
        frame = pd.read_csv(path).assign(b=lambda rows: rows["b"] * 2)
        frame.to_csv(path, index=False)
        prepared = prepare(path, FileOptions(label_column="kind"))
    with pytest.raises(RunError, match="search.journal holds a search over other rows"):
        search(prepared, storage, trials=1, **others)
    assert storage.read_bytes() == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-5],
        lambda text: text + '{"op_code":',
        lambda text: text + "more\n",
        lambda text: "line\n" + text,
        lambda text: text.replace("op_code", "code", 1),
        lambda text: text.replace('"op_code":', '"op_code":9', 1),
        lambda text: text.replace('"study_name":"laddernet"', '"study_name":"another"'),
        lambda text: "a,b,kind\n1,2,3\n",
        lambda text: "a single line\n",
        lambda text: "no line",
        lambda text: "[1]\n",
        lambda text: "\0\xff\n",
    ],
)
def test_a_damaged_storage_is_refused_and_left(prepared, storage, harm):
    search(prepared, storage, trials=1)
    storage.write_text(harm(storage.read_text()), encoding="latin-1")
    before = storage.read_bytes()
    with pytest.raises(RunError, match=r"search\.journal cannot be used as a search's storage \(.+\)\. Name another"):
        search(prepared, storage, trials=2)
    assert storage.read_bytes() == before


def test_a_storage_that_cannot_be_a_file_is_refused(prepared, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "search.journal"):
        with pytest.raises(RunError, match="cannot be used as a search's storage"):
            search(prepared, place, trials=1)
    assert search(prepared, tmp_path / "file", trials=1).trials == 1  # an empty file is none yet


def test_only_the_rows_to_train_on_are_looked_at(path, prepared, tmp_path):
    tuned = search(prepared, tmp_path / "one")
    nonsense = dataclasses.replace(
        prepared, x_test=np.full_like(prepared.x_test, np.nan), y_test=prepared.y_test[::-1] + 1
    )
    assert search(nonsense, tmp_path / "two") == tuned
    assert finished(tmp_path / "two") == finished(tmp_path / "one")
    assert search(nonsense, tmp_path / "one") == tuned  # it is the same search
    frame = pd.read_csv(path)
    frame.loc[frame["a"].astype(np.float32).isin(prepared.x_test[:, 0]), "a"] += 1
    frame.to_csv(path, index=False)
    again = prepare(path, FileOptions(label_column="kind"))
    assert not np.array_equal(again.x_test, prepared.x_test)
    assert search(again, tmp_path / "one") == tuned


def test_regression(tmp_path, storage):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(50, 2)), columns=["a", "b"]).assign(y=lambda rows: 100 * rows["a"] + 1000.5)
    frame.loc[:9, "y"] = np.nan
    frame.to_csv(tmp_path / "rows.csv", index=False)
    prepared = prepare(tmp_path / "rows.csv", FileOptions(label_column="y"))
    assert prepared.task == "regression"
    tuned = search(prepared, storage, trials=2, max_epochs=10)
    assert 0 < tuned.error <= tuned.default_error < 1.5  # of the labels' deviation, which is near 100
    defaults = LadderRegressor(max_epochs=1, random_state=0).fit(prepared.x_train, prepared.y_train)
    assert finished(storage)[0][0]["hidden_layer_sizes"] == list(widths_of(defaults))
    assert len(trials_of(storage)) == 2


def test_a_regression_whose_last_step_diverges_has_no_error(tmp_path, storage):
    frame = pd.DataFrame({"a": np.arange(40.0), "y": np.arange(40) * 1.5})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    prepared = prepare(tmp_path / "rows.csv", FileOptions(label_column="y"))

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OneLongStep(Prepared):
        def estimator(self, **settings):
            return super().estimator(**settings | {"learning_rate": 1e38 if settings else 0.01})

    with pytest.raises(TrainingError, match="none of the 1 trials"):
        search(OneLongStep(**vars(prepared)), storage, trials=1)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 0, 0, 1, 1, -1], "the class 1 has 2 labelled rows, too few for 3 folds: take 2 .*--folds 2"),
        (["cat"] * 4 + ["dog", None], "the class 'dog' has one labelled row"),
        ([0, 0, 0, 0, -1, -1], "hold one class only"),
    ],
)
def test_too_few_labels_for_the_folds(prepared, storage, y, message):
    y = np.array(y, dtype=object if None in y else None)
    few = dataclasses.replace(prepared, x_train=prepared.x_train[:6], y_train=y)
    with pytest.raises(DataError, match=message):
        search(few, storage, folds=3)
    assert not storage.exists()
