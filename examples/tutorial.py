# ruff: noqa: T201
# %% [markdown]
"""From a table with few labels to predictions.

Run this file from the top, cell by cell in an editor that knows `# %%`, or as a whole:

    python examples/tutorial.py [FOLDER]        all of it; writes into FOLDER (default: tutorial), which must be new
    python examples/tutorial.py --only-data     makes the tables and stops; docs/tutorial.md goes on from there
    python examples/tutorial.py --quick         the same with very few epochs, to see that it runs; ignore the figures

The tables are made here; nothing is downloaded.
"""

# %%
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from laddernet import LadderClassifier
from laddernet.checkpoints import load_run, save_run
from laddernet.data.predictions import prediction_table, write_predictions
from laddernet.model_selection import LabeledKFold, labeled_scorer
from laddernet.preparation import Preparation

parser = argparse.ArgumentParser(description="From a table with few labels to predictions.")
parser.add_argument("folder", nargs="?", type=Path, default=Path("tutorial"), help="new or empty [default: tutorial]")
parser.add_argument("--only-data", action="store_true", help="make the tables and stop")
parser.add_argument("--quick", action="store_true", help="very few epochs, to see that it runs")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
folder = options.folder
if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    parser.error(f"{folder} exists and is not empty; nothing in it is touched. Name a new folder.")
folder.mkdir(parents=True, exist_ok=True)
started = time.perf_counter()


# %% [markdown]
# ## The table
#
# A made-up works has pumps of two models. Each row is one day's report on one of them. Opening a pump to see what is
# wrong with it is dear, so of 2,400 reports only 60 have a diagnosis.
#
# A pump is healthy or has one of three faults, so with two models there are eight clusters of readings. A fault shifts
# some readings by one to four times their scatter, and not the same way in both models: so no one straight line tells
# it, and the shape of the clusters is worth knowing. That suits the method; docs/tables.md has tables that nobody made
# for it. The day and the age in hours have nothing to do with the diagnosis. Some readings are lost. Seven reports of
# ten have a note, of two remarks; a remark is on the right trouble 70 times of 100.


# %%
def make_reports(rows, first_day, days, rng):
    """Reports of pumps, with the true diagnosis of every row."""
    faults = ["healthy", "worn bearing", "clogged filter", "leaking seal"]
    fault = rng.choice(4, size=rows, p=[0.52, 0.18, 0.16, 0.14])
    big = rng.random(rows) < 0.5  # of two models of pumps
    # Of each reading: its mean in the small and in the big model, its scatter, and how far the faults shift it in each.
    readings = {
        "flow": (22.0, 38.0, 2.0, (0, 0, -2, -1), (0, 0, -3, -2)),
        "pressure": (3.1, 4.6, 0.3, (0, 0, -1, -2), (0, 0, -1, -3)),
        "current": (8.0, 13.5, 0.8, (0, -1, 2, -1), (0, 2, -1, 2)),
        "motor_temperature": (41.0, 55.0, 3.0, (0, 2, -1, 0), (0, -1, 2, 1)),
        "bearing_temperature": (38.0, 47.0, 2.0, (0, 2, 0, 1), (0, 3, 0, 1)),
        "vibration": (1.6, 2.6, 0.3, (0, 2, 0, -1), (0, 3, 1, 1)),
        "noise": (62.0, 70.0, 2.5, (0, -1, 2, 1), (0, 2, -1, -1)),
        "drip_rate": (2.0, 3.0, 0.5, (0, 0, -1, 2), (0, 1, 0, 3)),
    }
    table = pd.DataFrame()
    for name, (small, large, scatter, fault_in_small, fault_in_large) in readings.items():
        shift = np.where(big, np.array(fault_in_large)[fault], np.array(fault_in_small)[fault])
        table[name] = np.where(big, large, small) + scatter * (1.2 * shift + rng.normal(size=rows))
    hours = rng.gamma(2.0, 4000.0, size=rows).round()
    table["noise"] += hours / 8000
    says = [
        ["all quiet", "nothing to report", "cleaned the outside", "oil level ok"],
        ["grinding sound", "rattles at start", "housing hot to the touch", "hums louder than last week"],
        ["little comes through", "pressure climbs slowly", "strainer looks dirty", "gauge swings"],
        ["wet floor under it", "drips at the shaft", "pressure does not hold", "puddle again"],
    ]
    heard = np.where(rng.random((2, rows)) < 0.6, fault, rng.choice(4, size=(2, rows)))
    which = rng.integers(4, size=(2, rows))
    notes = [
        f"{says[i][m]}, {says[j][n]}" if rng.random() < 0.7 else None for i, j, m, n in zip(*heard, *which, strict=True)
    ]
    table = table.round(2)
    for name in ("current", "vibration"):  # meters that fail now and then
        table[name] = table[name].mask(rng.random(rows) < 0.08)
    table.insert(0, "day", pd.Timestamp(first_day) + pd.to_timedelta(np.sort(rng.integers(days, size=rows)), unit="D"))
    table.insert(1, "model", np.where(big, "P400", "P200"))
    table.insert(2, "hours", hours)
    table["note"] = notes
    table["diagnosis"] = np.array(faults, dtype=object)[fault]
    return table


rng = np.random.default_rng(0)
reports = make_reports(2400, "2025-01-01", 180, rng)
reports.loc[rng.permutation(2400)[60:], "diagnosis"] = None  # 60 rows, whichever they are, keep theirs
checked = make_reports(1000, "2025-01-01", 180, rng)
new = make_reports(400, "2025-06-30", 30, rng)

# %% [markdown]
# Three files: `pumps.csv` to learn from; `pumps-checked.csv`, 1,000 other reports with the diagnosis of each, which
# tell what the models are really worth (with your own data you will have no such luxury); and `pumps-new.csv`, the
# next month's reports, without a diagnosis.

# %%
reports.to_csv(folder / "pumps.csv", index=False)
checked.to_csv(folder / "pumps-checked.csv", index=False)
new.drop(columns="diagnosis").to_csv(folder / "pumps-new.csv", index=False)
for name in ("pumps.csv", "pumps-checked.csv", "pumps-new.csv"):
    print(f"wrote {folder / name}")
if options.only_data:
    sys.exit()

# %% [markdown]
# ## Read it and make it numbers
#
# A `Preparation` learns from the training rows what each column holds: numbers stay as they are, with a further column
# that says where one was missing; the model becomes a column for each value; the notes become 30 columns. It uses no
# labels. The day and the age have nothing to do with the fault, so they are left out, here and in every later table.

# %%
epochs = 3 if options.quick else "auto"  # "auto" is the default
few_epochs = 3 if options.quick else 10


def step(text):
    """Print a line with the seconds since the start."""
    print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)


table = pd.read_csv(folder / "pumps.csv")
y = table.pop("diagnosis")  # an empty cell is NaN, which marks a row without a label
labeled = y.notna().to_numpy()
preparation = Preparation.fit(table, drop=["day", "hours"])
X = preparation.apply(table)
step(f"{len(X)} rows, {labeled.sum()} of them labelled; {len(preparation.columns)} columns make {X.shape[1]} features")
print(y.value_counts().to_string())

# %% [markdown]
# ## Train, and compare
#
# The ladder gets all rows. The same network without its decoder (`variant="baseline"`) and logistic regression learn
# from the 60 labelled rows alone. All are judged on the reports of `pumps-checked.csv`.
#
# Half of the pumps are healthy, so that "healthy" for every row is right half of the time. That is the error to beat.
#
# `column_weights` makes the 30 features of the notes count together as one reading does. Without it they outweigh all
# readings; the command line always gives it.

# %%
checked_table = pd.read_csv(folder / "pumps-checked.csv")
y_checked = checked_table.pop("diagnosis")
X_checked = preparation.apply(checked_table)


def judge(name, model, X_checked):
    """Print the error on the checked rows."""
    error = np.mean(model.predict(X_checked) != y_checked)
    step(f"{name}: test error {error:.1%}")
    return error


common = y[labeled].mode()[0]
step(f"{common!r} for every row: test error {np.mean(y_checked != common):.1%}")
alike = LadderClassifier(max_epochs=epochs, random_state=0).fit(X, y)
judge("all features alike, ladder", alike, X_checked)

weights = preparation.column_weights
ladder = LadderClassifier(column_weights=weights, max_epochs=epochs, random_state=0).fit(X, y)
ladder_error = judge("ladder", ladder, X_checked)
supervised = LadderClassifier(variant="baseline", column_weights=weights, max_epochs=epochs, random_state=0).fit(X, y)
judge("supervised only", supervised, X_checked)
scaling = FunctionTransformer(ladder.scaling_.apply, kw_args={"dtype": np.float64})  # the same features
linear = make_pipeline(scaling, LogisticRegression(max_iter=2000)).fit(X[labeled], y[labeled])
judge("logistic regression", linear, X_checked)

# %% [markdown]
# ## Judge with the few labels that there are
#
# Without `pumps-checked.csv` you would cross-validate. scikit-learn's own splitters would test on rows without a label;
# `LabeledKFold` splits the labelled rows alone, and leaves all others in every training part. `labeled_scorer` makes
# any of scikit-learn's scores leave rows without a label out. Each fold has 20 rows to test on, so that one row is 5 %:
# look at the mean, and not too closely. A smaller network and fewer epochs make it quick.
#
# The balanced error is the mean of each class's own error. Here it is 75 % for whoever says "healthy" of all rows.

# %%
small_ladder = LadderClassifier((100,), column_weights=weights, max_epochs=few_epochs, random_state=0)
folds = LabeledKFold(3, random_state=0)
scores = cross_val_score(small_ladder, X, y, cv=folds, scoring=labeled_scorer("balanced_accuracy"))
step(f"balanced error in 3 folds: {', '.join(f'{1 - score:.1%}' for score in scores)}; mean {1 - scores.mean():.1%}")

# %% [markdown]
# ## Classes of unequal size
#
# Of the 60 diagnosed pumps 37 are healthy, and 3 have a leaking seal. `class_weight="balanced"` gives every
# class the same share of the supervised cost. Whether that is better is for the folds to say.

# %%
grid = {"class_weight": [None, "balanced"]}
search = GridSearchCV(small_ladder, grid, cv=folds, scoring=labeled_scorer("balanced_accuracy"), refit=False)
search.fit(X, y)
for settings, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    step(f"{settings}: balanced error {1 - score:.1%}")

# %% [markdown]
# ## Keep the run, and read it back
#
# A run folder holds the model and the preparation, and no pickle.

# %%
run = folder / "run"
training = {"file": "pumps.csv", "label": "diagnosis"}
save_run(run, ladder, training=training, metrics={"test_error": 100 * float(ladder_error)}, preparation=preparation)
loaded = load_run(run)
step(f"run written to {run}, and read back: {type(loaded.model).__name__} of {loaded.model.n_features_in_} features")

# %% [markdown]
# ## Predict
#
# One row comes out for each row that goes in, in the same order.

# %%
new_table = pd.read_csv(folder / "pumps-new.csv")
X_new = loaded.preparation.apply(new_table)
probabilities = loaded.model.predict_proba(X_new)
columns = prediction_table(loaded.model.classes_, loaded.model.predict(X_new), probabilities)
write_predictions(folder / "predictions.csv", columns)
step(f"{len(new_table)} predictions written to {folder / 'predictions.csv'}; the first three:")
print(pd.DataFrame(dict(columns)).head(3).round(3).to_string())

# %% [markdown]
# ## New rows later
#
# `partial_fit` goes on for one pass over new rows, which may all be unlabelled; the labelled rows are remembered by the
# model that was fitted (not by one that was read from a run folder). One pass over 400 rows is four steps at the full
# learning rate, so it can make the model worse as well as better. Judge it before you keep it.

# %%
ladder.partial_fit(preparation.apply(new_table))
judge("after partial_fit on the new rows", ladder, X_checked)
step("done")
