"""A trained network as one file for other programs: ONNX, or torch's own exported program.

The file takes rows as the estimator does, in X's own units: the input scaling is part of it. What comes before, the
making of numbers out of a table's columns, is not; it is noted in the file, with the names of the columns.
"""

import json
import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laddernet import __version__
from laddernet.checkpoints import Run
from laddernet.errors import RunError
from laddernet.estimators import LadderClassifier
from laddernet.losses import TASKS
from laddernet.preprocessing import LEAST_CONTRAST
from laddernet.scaling import Scaling, Whitening

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
NOTES = "laddernet.json"
"""Name of the notes inside a torch file; in an ONNX file they are metadata under ``laddernet``."""
TOLERANCE = 1e-5
"""By which the file's answers may differ from the model's, on probabilities or on values in their deviation."""
_ROWS = 64


class Network(nn.Module):
    """Input scaling, encoder and output activation in one.

    Parameters
    ----------
    model : LadderClassifier or LadderRegressor
        Fitted.
    """

    input_mean: Tensor
    input_matrix: Tensor
    input_center: Tensor
    input_center_rest: Tensor
    input_factor: Tensor
    input_weight: Tensor
    y_mean: Tensor
    y_scale: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        scaling: Scaling | Whitening = model.scaling_
        self.shape = model.input_shape_
        self.encoder = model.ladder_.encoder.cpu().float()
        self.whitens = isinstance(scaling, Whitening)
        if isinstance(scaling, Whitening):
            self.norm = scaling.norm
            constants = {"mean": scaling.mean, "matrix": scaling.whitening}
        else:
            self.limit = scaling.limit
            rest = scaling.center - scaling.center.astype(np.float32)  # of columns that lie far from 0 for their spread
            constants = {
                "center": scaling.center,
                "center_rest": rest,
                "factor": 1 / scaling.scale,
                "weight": scaling.weight,
            }
        for name, value in constants.items():
            self.register_buffer(f"input_{name}", torch.from_numpy(value.astype(np.float32)))
        self.is_classifier = isinstance(model, LadderClassifier)
        self.activate = TASKS[model.ladder_.task].activate
        if not self.is_classifier:
            values = {"mean": model.y_mean_, "scale": model.y_scale_}
            for name, value in values.items():  # tensors, as the ONNX exporter rounds numbers to float32
                self.register_buffer(f"y_{name}", torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return (logits, probabilities), or (values,) in float64, of a regressor; x of shape (rows, *shape)."""
        logits = self.encoder(self._scale(x.flatten(1)).reshape(-1, *self.shape))
        if self.is_classifier:
            return logits, self.activate(logits)
        return (logits[:, 0].double() * self.y_scale + self.y_mean,)

    def _scale(self, x: Tensor) -> Tensor:
        if self.whitens:
            full = x.double()
            full = full / full.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            centred = full - full.mean(dim=1, keepdim=True)
            length = centred.square().sum(dim=1, keepdim=True).sqrt()
            contrast = centred * torch.where(length > LEAST_CONTRAST, self.norm / length.clamp(min=LEAST_CONTRAST), 0.0)
            return (contrast.float() - self.input_mean) @ self.input_matrix
        z = (x - self.input_center - self.input_center_rest) * self.input_factor
        if math.isfinite(self.limit):
            far = z.abs()
            beyond = self.limit * (1 + torch.log(far.clamp(min=self.limit) / self.limit))
            z = torch.where(far > self.limit, torch.sign(z) * beyond, z)
        return z * self.input_weight


def export(run: Run, out: Path, *, format: Format, overwrite: bool = False) -> dict[str, Any]:
    """Write a run's network as one file, once its answers are found to be the model's.

    Parameters
    ----------
    run : Run
    out : Path
    format : {"onnx", "torch"}
        "torch" is what `torch.export.load` reads.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    dict
        The notes that the file holds: inputs, outputs, classes, what comes before.

    Raises
    ------
    RunError
        If something is in `out`, a library is missing, the network cannot be exported, or its answers differ from the
        model's. Nothing is then written.
    """
    if out.exists() and not overwrite:
        raise RunError(f"{out} exists already. Name another file with --out, or give --overwrite.")
    if not out.parent.is_dir():
        raise RunError(f"there is no folder {out.parent}. Make it, or name another file.")
    model = run.model
    network = Network(model).eval().requires_grad_(False)
    x = _example(model)
    notes = _notes(run)
    try:
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-")
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}. Name another file with --out.") from error
    with folder as beside:
        path = Path(beside) / f"network{SUFFIXES[format]}"
        try:
            with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "torch.fx", "torch.export"):
                warnings.simplefilter("ignore")  # of the exporters about themselves
                program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
                answers = (
                    _write_onnx(program, network, path, notes, x)
                    if format == "onnx"
                    else _write_torch(program, path, notes, x)
                )
        except RunError:
            raise
        except Exception as error:  # the exporters raise many kinds
            reason = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
            raise RunError(f"the network cannot be exported ({type(error).__name__}: {reason:.300})") from error
        _check(model, x.numpy(), answers)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(out)
    return notes


def _write_torch(program: Any, path: Path, notes: dict[str, Any], x: Tensor) -> NDArray[Any]:
    """Write what `torch.export.load` reads, and return what it answers."""
    torch.export.save(program, path, extra_files={NOTES: json.dumps(notes)})
    answers: NDArray[Any] = torch.export.load(path).module()(x)[-1].numpy()
    return answers


def _write_onnx(program: Any, network: Network, path: Path, notes: dict[str, Any], x: Tensor) -> NDArray[Any]:
    """Write an ONNX file and return what onnxruntime answers from it."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise RunError(f"writing ONNX needs {error.name}: pip install 'laddernet[onnx]'.") from error
    names = ["logits", "probabilities"] if network.is_classifier else ["values"]
    torch.onnx.export(
        program, (x,), str(path), input_names=["x"], output_names=names, dynamo=True, external_data=False, verbose=False
    )
    file = onnx.load(path)
    onnx.helper.set_model_props(file, {"laddernet": json.dumps(notes)})
    onnx.checker.check_model(file)
    onnx.save(file, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers: NDArray[Any] = session.run([names[-1]], {"x": x.numpy()})[0]
    return answers


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep libraries' logs to themselves: what is wrong comes as an error."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _example(model: Any) -> Tensor:
    """Rows like those of the training data, as far as the scaling tells."""
    generator = np.random.default_rng(0)
    scaling, shape = model.scaling_, (_ROWS, model.n_features_in_)
    if isinstance(scaling, Scaling):
        spread = np.where(np.isfinite(scaling.scale), scaling.scale, 0) * scaling.size
        rows = scaling.center + spread * generator.standard_normal(shape)
    else:
        rows = generator.random(shape)
        rows[0] = 0.3  # one without contrast
    return torch.from_numpy(rows.astype(np.float32)).reshape(-1, *model.input_shape_)


def _check(model: Any, x: NDArray[Any], answers: NDArray[Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        expected = model.predict_proba(x) if isinstance(model, LadderClassifier) else model.predict(x)
    difference = float(np.abs(answers - expected).max())
    if not isinstance(model, LadderClassifier):
        difference /= model.y_scale_  # in units of the values' deviation
    if not difference <= TOLERANCE:
        raise RunError(
            f"the exported network's answers differ from the model's by {difference:.2g}; nothing is written."
        )


def _notes(run: Run) -> dict[str, Any]:
    model = run.model
    is_classifier = isinstance(model, LadderClassifier)
    names = getattr(model, "feature_names_in_", None)
    if run.preparation is not None:
        names = run.preparation.feature_names
    return {
        "laddernet": __version__,
        "input": {
            "name": "x",
            "dtype": "float32",
            "shape": ["batch", *model.input_shape_],
            "columns": None if names is None else list(names),
        },
        "outputs": ["logits", "probabilities"] if is_classifier else ["values"],
        "classes": model.classes_.tolist() if is_classifier else None,
        "scaling": "part of the network: x is in the training data's own units",
        "preparation": None
        if run.preparation is None
        else "not part of it: preparation.skops in the run folder gives the columns",
        "training": run.training,
    }
