import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from laddernet import Ladder, LadderClassifier, resume
from laddernet.errors import RunError, TrainingError
from laddernet.estimators import fit_together
from laddernet.loop import Callback, TrainingStopped
from laddernet.networks import mlp
from laddernet.noise import VirtualAdversarial
from laddernet.resume import Checkpoint, read, write
from laddernet.training import TrainingConfig, train

X, Y = load_digits(return_X_y=True)
X, Y = X[:230], Y[:230].copy()
Y[60:] = -1


class Signal(Callback):
    """Sends this process a signal after so many steps."""

    def __init__(self, after, number=signal.SIGTERM):
        self.left, self.number = after, number

    def on_step_end(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def convolutional(shape, outputs):
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, outputs)
    )


def model(**settings):
    usual = {"hidden_layer_sizes": (20, 10), "max_epochs": 4, "batch_size": 50, "random_state": 3, "device": "cpu"}
    return LadderClassifier(**usual | settings)


def outcome(fitted):
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in fitted.history_]
    return fitted.ladder_.state_dict(), history, fitted.n_iter_


def assert_same(one, other):
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())


SETTINGS = {
    "full": {},
    "gamma": {"variant": "gamma"},
    "baseline": {"variant": "baseline"},
    "bfloat16": {"precision": "bfloat16", "hidden_layer_sizes": (600, 300), "max_epochs": 3},
    "float64": {"precision": "float64"},
    "labels in several batches": {"batch_size": 20, "repeat_labels": False},
    "validated": {"validation_fraction": 0.3},
    "early stopping": {"validation_fraction": 0.3, "early_stopping": True, "max_epochs": 40},
    "averaged": {"training_options": {"averaged_epochs": 3, "decay": "cosine"}},
    "projected": {"ladder_options": {"weight_normalization": "all"}},
    "convolutional": {"module": convolutional, "input_shape": (1, 8, 8)},
}


@pytest.mark.fault(
    "SIGTERM in a step, at an epoch's end, at the run's end", "goes on, and ends bit for bit as without it", times=4
)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_was_stopped_ends_as_it_would_have(tmp_path, name, monkeypatch):
    """After steps in the middle of an epoch, at its end, and at the end of the run."""
    monkeypatch.setattr("laddernet.training.COMPILED_WORK", 0 if name == "bfloat16" else 5e7)
    expected = outcome(model(**SETTINGS[name]).fit(X, Y))
    checkpoint = tmp_path / "made" / "here" / "checkpoint"
    for steps in (3, 1, 4, 6):
        try:
            fitted = model(**SETTINGS[name]).fit(X, Y, callback=Signal(steps), checkpoint=checkpoint)
            break
        except TrainingStopped:
            torch.rand(3)  # other work between
    else:
        fitted = model(**SETTINGS[name]).fit(X, Y, checkpoint=checkpoint)
    assert_same(outcome(fitted), expected)
    assert_same(outcome(model(**SETTINGS[name]).fit(X, Y, checkpoint=checkpoint)), expected)  # and once more
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (
        signal.default_int_handler,
        signal.SIG_DFL,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("epochs", [4, 200])  # step by step, and in launches of a graph
def test_on_a_gpu_a_run_that_was_stopped_ends_as_it_would_have(tmp_path, epochs):
    settings = {"device": "cuda", "max_epochs": epochs}
    expected = outcome(model(**settings).fit(X, Y))
    with pytest.raises(TrainingStopped):
        model(**settings).fit(X, Y, callback=Signal(epochs), checkpoint=tmp_path / "c")
    assert_same(outcome(model(**settings).fit(X, Y, checkpoint=tmp_path / "c")), expected)


def test_a_module_that_draws_from_torchs_own_generator_goes_on_as_well(tmp_path):
    class Jitter(nn.Module):
        def forward(self, x):
            return x * (1 + 0.1 * torch.rand(())) if self.training else x

    def make(shape, outputs):
        return nn.Sequential(nn.Linear(shape[0], 10), Jitter(), nn.ReLU(), nn.Linear(10, outputs))

    torch.manual_seed(5)
    expected = outcome(model(module=make).fit(X, Y))
    torch.manual_seed(5)
    with pytest.raises(TrainingStopped):
        model(module=make).fit(X, Y, callback=Signal(6), checkpoint=tmp_path / "c")
    torch.manual_seed(6)
    assert_same(outcome(model(module=make).fit(X, Y, checkpoint=tmp_path / "c")), expected)


@pytest.mark.fault("SIGTERM while several networks are trained at once", "goes on, and ends bit for bit as without it")
def test_networks_trained_together_go_on_as_well(tmp_path):
    def models():
        return [model(random_state=seed) for seed in (1, 2)]

    expected, stopped, resumed = models(), models(), models()
    fit_together(expected, X, [Y, Y])
    with pytest.raises(TrainingStopped):
        fit_together(stopped, X, [Y, Y], callback=Signal(6), checkpoint=Checkpoint(tmp_path / "c"))
    fit_together(resumed, X, [Y, Y], checkpoint=Checkpoint(tmp_path / "c"))
    for one, other in zip(expected, resumed, strict=True):
        assert_same(outcome(one), outcome(other))


def test_progress_is_told_where_a_run_is_taken_up(tmp_path):
    class Watch(Callback):
        def on_train_begin(self, epochs, steps_per_epoch):
            self.told = [(epochs, steps_per_epoch)]

        def on_resume(self, records, steps):
            self.told.append(([record["epoch"] for record in records], steps))

    with pytest.raises(TrainingStopped):
        model().fit(X, Y, callback=Signal(10), checkpoint=tmp_path / "c")
    watch = Watch()
    model().fit(X, Y, callback=watch, checkpoint=tmp_path / "c")
    assert watch.told == [(4, 4), ([1, 2], 10)]


@pytest.mark.fault("SIGINT or SIGTERM after the last step", "stops; the checkpoint stays")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_step_counts(tmp_path, number):
    with pytest.raises(TrainingStopped) as stopped:
        model().fit(X, Y, callback=Signal(16, number), checkpoint=tmp_path / "c")
    assert stopped.value.args == (number,)


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model().fit(X, Y, callback=Signal(3, signal.SIGINT), checkpoint=tmp_path / "c")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fit_that_was_stopped_leaves_the_model_as_it_was(tmp_path):
    fitted = model().fit(X, Y)
    before = outcome(fitted)
    with pytest.raises(TrainingStopped):
        fitted.fit(X[:200], Y[:200], callback=Signal(2), checkpoint=tmp_path / "c")
    assert_same(outcome(fitted), before)


# Other runs, and other processes.

OPTIONS = {
    "supervised_path": "clean",
    "detach_targets": True,
    "joint_statistics": True,
    "weight_normalization": "encoder",
}


@pytest.mark.fault(
    "the checkpoint is of other data, settings or seed", "an error that names what differs; it is left as it is"
)
@pytest.mark.parametrize(
    ("settings", "rows", "named"),
    [
        ({"max_epochs": 5}, slice(None), "configuration"),
        ({"hidden_layer_sizes": (20, 11)}, slice(None), "network"),
        ({"noise_std": 0.2}, slice(None), "noise_std"),
        *[({"ladder_options": {name: value}}, slice(None), "options") for name, value in OPTIONS.items()],
        ({"random_state": 4}, slice(None), "seeds"),
        ({}, slice(0, 229), "rows, data"),
        ({}, slice(None, None, -1), "data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, settings, rows, named):
    with pytest.raises(TrainingStopped):
        model().fit(X, Y, callback=Signal(6), checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(RunError, match=f"is of another run: its {named} differ"):
        model(**settings).fit(X[rows], Y[rows], checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_a_checkpoint_of_a_network_with_other_activations_is_refused(tmp_path):
    def fit(activation, callback=None):
        module = mlp(
            [X.shape[1], 20, len(np.unique(Y[:60]))], activation=activation, generator=torch.Generator().manual_seed(0)
        )
        return model(module=module).fit(X, Y, callback=callback, checkpoint=tmp_path / "c")

    with pytest.raises(TrainingStopped):
        fit(nn.Sigmoid, Signal(6))
    with pytest.raises(RunError, match="is of another run: its modules differ"):
        fit(nn.Tanh)
    assert fit(nn.Sigmoid).n_iter_ == 4


def test_a_checkpoint_of_changes_of_another_length_is_refused(tmp_path):
    x, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(Y[:60])

    def fit(share, callback=None):
        network = mlp([X.shape[1], 20, 10], generator=torch.Generator().manual_seed(0))
        ladder = Ladder(network, corruption=VirtualAdversarial(share), generator=torch.Generator().manual_seed(0))
        config = TrainingConfig(epochs=4, batch_size=50)
        generator = torch.Generator().manual_seed(0)
        keeper = Checkpoint(tmp_path / "c")
        with keeper.held():
            return train(ladder, x, x[:60], y, config, generator=generator, callback=callback, keeper=keeper)

    with pytest.raises(TrainingStopped):
        fit(0.1, Signal(6))
    with pytest.raises(RunError, match="is of another run: its corruption differ"):
        fit(0.3)
    assert len(fit(0.1)) == 4


HOLDER = """
import sys, time
from laddernet.resume import Checkpoint
with Checkpoint(sys.argv[1]).held():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.fault(
    "a second process on one run; the first one killed", "the second is refused; the dead one's lock is not in the way"
)
def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not_in_the_way(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "c")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="is in use: another process is training this run"):
            model().fit(X, Y, checkpoint=tmp_path / "c")
        holder.kill()
    assert (tmp_path / "c.lock").exists()
    model().fit(X, Y, checkpoint=tmp_path / "c")


@pytest.mark.fault("the folder cannot be written to", "an error before training")
def test_a_folder_that_cannot_be_written_to_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="no checkpoint can be written to"):
        model().fit(X, Y, checkpoint=tmp_path / "file" / "c")


def train_and_tell(path, answers, *, killed_at=0):
    """Train, and be killed just before so many times that something is synced to the disk or renamed."""
    resume.SHARE = 1e9  # at the end of every epoch
    calls = itertools.count(1)

    def deadly(function):
        def counted(*arguments):
            if next(calls) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return counted

    os.fsync, Path.replace = deadly(os.fsync), deadly(Path.replace)
    fitted = model(max_epochs=15).fit(X, Y, checkpoint=Checkpoint(path))
    np.save(answers, fitted.predict_proba(X))


@pytest.mark.fault(
    "kill -9 at each point of the writing of a checkpoint",
    "goes on, and ends bit for bit as without it",
    lost="the work since the last state, which is done again",
    times=8,
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_killed_at_any_point_of_writing_a_run_goes_on(tmp_path):
    """In the first two writings of each process; at random moments it is benchmarks/kill_resume.py that kills."""
    # A fork is quick, but cannot train where its parent has trained on a GPU.
    processes = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")
    expected = model(max_epochs=15).fit(X, Y).predict_proba(X)
    left = set()
    for call in (*range(1, 9), 0):
        process = processes.Process(
            target=train_and_tell, args=(tmp_path / "c", tmp_path / "p.npy"), kwargs={"killed_at": call}
        )
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if call else 0)
        left.add(tuple(sorted(path.name for path in tmp_path.iterdir())))
    assert ("c.lock", "c.writing") in left  # before the first one was whole
    assert ("c.lock", "c.previous", "c.writing") in left  # between the two renamings
    assert ("c", "c.lock", "c.previous", "c.writing") in left
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected)


# What can befall the file.


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two checkpoints of a run, the newer of them a step later."""
    path = tmp_path_factory.mktemp("kept") / "c"
    for steps in (5, 1):
        with pytest.raises(TrainingStopped):
            model().fit(X, Y, callback=Signal(steps), checkpoint=path)
    return path.read_bytes(), path.with_name("c.previous").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted():
    return outcome(model().fit(X, Y))


@pytest.mark.fault(
    "the newest checkpoint is cut short, empty, altered, missing",
    "the one before it is used, with a warning; ends bit for bit",
)
@pytest.mark.parametrize("damage", ["cut short", "empty", "a byte flipped", "missing", "of another format"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, kept, uninterrupted, damage):
    newest, previous = kept
    path = tmp_path / "c"
    flipped = bytearray(newest)
    flipped[-100] ^= 1
    damaged = {
        "cut short": newest[:-1000],
        "empty": b"",
        "a byte flipped": bytes(flipped),
        "of another format": newest.replace(b"laddernet checkpoint 1", b"laddernet checkpoint 2"),
    }
    path.with_name("c.previous").write_bytes(previous)
    if damage == "missing":
        assert_same(outcome(model().fit(X, Y, checkpoint=path)), uninterrupted)
        return
    path.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match=r"c is (damaged|no laddernet).* The one before it, .*c.previous, is used"):
        fitted = model().fit(X, Y, checkpoint=path)
    assert_same(outcome(fitted), uninterrupted)


@pytest.mark.fault(
    "killed again after the newest checkpoint was damaged", "the whole one is never displaced by the damaged"
)
def test_a_damaged_checkpoint_does_not_displace_the_whole_one(tmp_path, kept, uninterrupted):
    path = tmp_path / "c"
    path.write_bytes(kept[0][:-1000])
    path.with_name("c.previous").write_bytes(kept[1])
    checkpoint = Checkpoint(path)
    with pytest.warns(UserWarning, match="The one before it"), pytest.raises(TrainingStopped):
        model().fit(X, Y, callback=Signal(1), checkpoint=checkpoint)
    assert path.with_name("c.previous").read_bytes() == kept[1]
    path.write_bytes(b"")  # damaged once more
    with pytest.warns(UserWarning, match="The one before it"):
        assert_same(outcome(model().fit(X, Y, checkpoint=path)), uninterrupted)


def test_a_checkpoint_whose_parts_do_not_fit_is_refused(tmp_path, kept):
    path = tmp_path / "c"
    path.write_bytes(kept[0])
    identity, state = read(path)
    state["ladder"]["steps"] = torch.zeros(3)
    write(path, identity, state)
    with pytest.raises(RunError, match="the ladder of the checkpoint does not fit this training .*to begin anew"):
        model().fit(X, Y, checkpoint=path)
    del state["progress"]
    state["ladder"]["steps"] = torch.zeros((), dtype=torch.int64)
    write(path, identity, state)
    with pytest.raises(RunError, match="the progress of the checkpoint does not fit this training"):
        model().fit(X, Y, checkpoint=path)


@pytest.mark.fault(
    "both checkpoints are damaged", "an error; nothing is begun anew unasked", lost="the training's state"
)
def test_without_a_whole_checkpoint_nothing_begins_unasked(tmp_path, kept):
    for name in ("c", "c.previous"):
        (tmp_path / name).write_bytes(kept[0][:500])
    with pytest.raises(RunError, match="Remove what is there, to begin anew"):
        model().fit(X, Y, checkpoint=tmp_path / "c")


@pytest.mark.fault(
    "random bytes of a checkpoint flipped, or its end missing",
    "what was written is read, or an error of ours",
    times=150,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unseen(tmp_path, kept, data):
    """Whatever bytes change, what is read is what was written, or an error of ours."""
    (tmp_path / "whole").write_bytes(kept[0])
    expected = read(tmp_path / "whole")
    content = bytearray(kept[0])
    header = 8 + int.from_bytes(content[:8], "little")
    places = st.integers(0, header - 1) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (tmp_path / "c").write_bytes(content)
    try:
        identity, state = read(tmp_path / "c")
    except RunError:
        return
    assert identity == expected[0]
    assert_equal_states(state, expected[1])


def assert_equal_states(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_equal_states(value, other[name])
    else:
        assert one == other


def test_any_state_comes_back(tmp_path):
    state = {
        "a/b": {"c": torch.arange(6.0).reshape(2, 3).T, "empty": torch.empty(0, 3), "none": None},
        "half": torch.ones((), dtype=torch.bfloat16),
        "plain": [1, 0.1, float("inf"), "x"],
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    write(tmp_path / "c", {"seed": 1}, state)
    identity, found = read(tmp_path / "c")
    assert identity == {"seed": 1}
    assert_equal_states(found, state)


@pytest.mark.fault("no room for a checkpoint", "training goes on, with a warning; the last checkpoint stays")
def test_where_the_disk_is_full_training_goes_on_and_the_last_checkpoint_stays(
    tmp_path, kept, uninterrupted, request, monkeypatch
):
    monkeypatch.setattr("laddernet.resume.SHARE", 1e9)  # at the end of every epoch
    (tmp_path / "c").write_bytes(kept[0])
    request.getfixturevalue("full_disk")
    with pytest.warns(UserWarning, match=r"c could not be written \(File too large\). Training goes on without a new"):
        fitted = model().fit(X, Y, checkpoint=tmp_path / "c")
    assert_same(outcome(fitted), uninterrupted)
    assert (tmp_path / "c").read_bytes() == kept[0]
    assert not (tmp_path / "c.writing").exists()


@pytest.mark.fault(
    "no room for the checkpoint of a run that is stopped", "an error that says so", lost="the work since the last state"
)
@pytest.mark.usefixtures("full_disk")
def test_a_stop_that_cannot_be_kept_says_so(tmp_path):
    with pytest.raises(OSError, match="the checkpoint .* could not be written"):
        model().fit(X, Y, callback=Signal(3), checkpoint=tmp_path / "c")


@pytest.mark.fault(
    "weights that are NaN or infinite", "stops; such weights are never kept", lost="the work since the last state"
)
def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    class Poison(Callback):
        def on_step_end(self):
            os.kill(os.getpid(), signal.SIGTERM)
            with torch.no_grad():
                next(poisoned.parameters()).fill_(float("nan"))

    made = []

    def make(shape, outputs):
        made.append(nn.Sequential(nn.Linear(shape[0], 10), nn.ReLU(), nn.Linear(10, outputs)))
        return made[-1]

    fitting = model(module=make)
    build = fitting._build_ladder

    def remember(*arguments):
        nonlocal poisoned
        poisoned = build(*arguments)
        return poisoned

    poisoned = None
    fitting._build_ladder = remember
    with pytest.raises(TrainingError, match="weights were no longer finite after step 1 of epoch 1"):
        fitting.fit(X, Y, callback=Poison(), checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_writing_is_rare_enough_to_cost_little(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", minutes=1000)
    checkpoint.load({})
    checkpoint._cost = 1000.0
    checkpoint.after_steps(dict, epoch_ended=True)
    assert not checkpoint.exists
    checkpoint._cost = 0.0
    checkpoint.after_steps(dict, epoch_ended=False)
    assert not checkpoint.exists
    checkpoint.after_steps(dict, epoch_ended=True)
    assert checkpoint.exists
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_must_be_above_zero(minutes):
    with pytest.raises(ValueError, match="minutes must be above 0"):
        Checkpoint("c", minutes=minutes)
