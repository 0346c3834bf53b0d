"""Progress of a training run on the standard error stream: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from laddernet.loop import Callback, EpochRecord

_PLAIN_LINES = 10


def progress(console: Console | None = None, *, title: str = "training") -> Callback:
    """Return a callback that shows the epoch, cost, learning rate, error and the time left.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to; by default the standard error stream.
    title : str
        What is being trained.
    """
    console = console or Console(stderr=True)
    return _Bar(console, title) if console.is_terminal else _Lines(console, title)


@contextmanager
def trial_progress(trials: int, console: Console | None = None) -> Iterator[Callable[[int, float, float], None]]:
    """Show the progress of a search: yields what is to be called with the number, error and best error of a trial.

    Parameters
    ----------
    trials : int
        In all.
    console : rich.console.Console, optional
        Where to; by default the standard error stream.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("tuning", total=trials)

        def show(number: int, error: float, best: float) -> None:
            bar.update(task, completed=number, description=f"tuning: trial {number}/{trials}, best {best:.4g}")
            if not console.is_terminal:
                text = f"tuning: trial {number}/{trials}, error {error:.4g}, best {best:.4g}"
                console.print(text, highlight=False, soft_wrap=True)

        yield show


@contextmanager
def image_progress(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show, on a terminal, how many of how many images of a folder have been resized.

    Parameters
    ----------
    title : str
        Name of the folder.
    console : rich.console.Console, optional
        Where to; by default the standard error stream.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"resizing {title}", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _describe(record: EpochRecord) -> str:
    parts = [f"cost {record['cost']:.4g}", f"learning rate {record['learning_rate']:.2g}"]
    if "validation_error" in record:
        parts.append(f"validation error {record['validation_error']:.4g}")
    return ", ".join(parts)


class _Bar(Callback):
    def __init__(self, console: Console, title: str) -> None:
        self.title = title
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs = epochs
        self.task = self.progress.add_task(f"{self.title}: epoch 1/{epochs}", total=epochs * steps_per_epoch)
        self.progress.start()

    def on_resume(self, records: Sequence[EpochRecord], steps: int) -> None:
        assert self.task is not None
        text = f"{self.title}: epoch {len(records) + 1}/{self.epochs}, taken up again"
        self.progress.update(self.task, completed=steps, description=text)

    def on_step_end(self) -> None:
        assert self.task is not None
        self.progress.advance(self.task)

    def on_epoch_end(self, record: EpochRecord) -> None:
        assert self.task is not None
        text = f"{self.title}: epoch {record['epoch']}/{self.epochs}, {_describe(record)}"
        self.progress.update(self.task, description=text)

    def on_train_end(self) -> None:
        self.progress.stop()


class _Lines(Callback):
    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs = epochs
        self.seconds = 0.0

    def on_resume(self, records: Sequence[EpochRecord], steps: int) -> None:
        self.seconds = sum(record["seconds"] for record in records)
        text = f"{self.title}: taken up again in epoch {min(len(records) + 1, self.epochs)}/{self.epochs}"
        self.console.print(text, highlight=False, soft_wrap=True)

    def on_epoch_end(self, record: EpochRecord) -> None:
        self.seconds += record["seconds"]
        epoch = record["epoch"]
        if epoch * _PLAIN_LINES // self.epochs > (epoch - 1) * _PLAIN_LINES // self.epochs:
            left = self.seconds / epoch * (self.epochs - epoch)
            self.console.print(
                f"{self.title}: epoch {epoch}/{self.epochs}, {_describe(record)}, {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
