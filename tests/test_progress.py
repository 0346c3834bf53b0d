import io

from rich.console import Console

from laddernet import LadderClassifier
from laddernet.progress import progress, trial_progress


def plain():
    stream = io.StringIO()
    return stream, Console(file=stream, width=40)


def test_elsewhere_than_on_a_terminal_a_search_prints_a_line_a_trial():
    stream, console = plain()
    with trial_progress(3, console) as show:
        show(1, 12.34567, 12.34567)
        show(2, float("nan"), 12.34567)
        assert len(stream.getvalue().splitlines()) == 2  # as it happens
        show(3, 7.0, 7.0)
    assert stream.getvalue().splitlines() == [
        "tuning: trial 1/3, error 12.35, best 12.35",
        "tuning: trial 2/3, error nan, best 12.35",
        "tuning: trial 3/3, error 7, best 7",
    ]


def test_on_a_terminal_a_search_shows_a_bar_and_leaves_nothing():
    stream = io.StringIO()
    with trial_progress(2, Console(file=stream, force_terminal=True, width=100, color_system=None)) as show:
        show(2, 12.5, 11.5)
    text = stream.getvalue()
    assert "tuning: trial 2/2, best 11.5" in text
    assert "error 12.5" not in text
    assert text.endswith("\x1b[2K")  # the bar's line is erased


def test_elsewhere_than_on_a_terminal_a_training_prints_at_most_ten_lines():
    stream, console = plain()
    x, y = [[0.0, 1.0], [1.0, 0.0]] * 4, [0, 1] * 4
    model = LadderClassifier((3,), max_epochs=25, random_state=0)
    model.fit(x, y, callback=progress(console, title="a table"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("a table: epoch 25/25, cost ")
    assert lines[-1].endswith(", 0 s left")


def taken_up(watch):
    """Tell of a run of 20 epochs of 5 steps, 4 of them and 3 steps made before the break, in 10 s an epoch."""
    record = {"epoch": 0, "seconds": 10.0, "learning_rate": 0.01, "cost": 2.0, "supervised_cost": 1.0}
    watch.on_train_begin(20, 5)
    watch.on_resume([{**record, "epoch": epoch} for epoch in range(1, 5)], 23)
    watch.on_step_end()
    watch.on_epoch_end({**record, "epoch": 5})
    watch.on_epoch_end({**record, "epoch": 6})


def test_a_training_that_is_taken_up_says_where_and_counts_the_time_before():
    stream, console = plain()
    taken_up(progress(console, title="rows"))
    assert stream.getvalue().splitlines() == [
        "rows: taken up again in epoch 5/20",
        "rows: epoch 6/20, cost 2, learning rate 0.01, 140 s left",
    ]


def test_the_bar_of_a_training_that_is_taken_up_begins_where_it_was():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    watch = progress(console, title="rows")
    taken_up(watch)
    (task,) = watch.progress.tasks
    assert (task.completed, task.total) == (24, 100)
    watch.on_train_end()
