import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from laddernet import Ladder, LadderClassifier, LadderRegressor, export
from laddernet.checkpoints import Run
from laddernet.errors import RunError
from laddernet.networks import WideResNet, conv_small, mlp

X, TARGET = load_digits(return_X_y=True)
Y = np.where(np.arange(len(X)) < 300, TARGET, -1)
MODELS = {
    "rows": lambda: LadderClassifier((20,), max_epochs=1).fit(X, Y),
    "columns": lambda: LadderClassifier((20,), input_scaling="columns", max_epochs=1).fit(X[:, :20] * 9 - 5, Y),
    "images": lambda: LadderClassifier(module=WideResNet, input_shape=(1, 8, 8), variant="gamma", max_epochs=1).fit(
        X[:400], Y[:400]
    ),
    "whitened": lambda: LadderClassifier(
        module=conv_small, variant="gamma", input_scaling="whitened", max_epochs=1
    ).fit(X[:400].reshape(-1, 1, 8, 8), Y[:400]),
    "far columns": lambda: LadderClassifier((20,), input_scaling="columns", max_epochs=1).fit(X[:, :20] + 1e5, Y),
    "far values": lambda: LadderRegressor((20,), max_epochs=1).fit(X, np.where(Y < 0, np.nan, Y + 1.7e9)),
    "values": lambda: LadderRegressor((20,), max_epochs=1).fit(X, np.where(Y < 0, np.nan, 100.0 * Y + 3)),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request):
    return Run(model=MODELS[request.param](), training={"dataset": request.param}, metrics={})


def expected(model, x):
    return model.predict_proba(x) if hasattr(model, "classes_") else model.predict(x)


def test_an_onnx_file_answers_as_the_model_does(run, tmp_path):
    path = tmp_path / "network.onnx"
    notes = export.export(run, path, format="onnx")
    session = onnxruntime.InferenceSession(path)
    for rows in (1, 200):
        x = X[300 : 300 + rows, : run.model.n_features_in_].reshape(-1, *run.model.input_shape_).astype(np.float32)
        x = x + np.float32(1e5) if run.training["dataset"] == "far columns" else x
        answers = session.run(None, {"x": x})
        assert [output.name for output in session.get_outputs()] == notes["outputs"]
        scale = getattr(run.model, "y_scale_", 1.0)
        np.testing.assert_allclose(answers[-1] / scale, expected(run.model, x) / scale, rtol=0, atol=1e-5)
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(stored["laddernet"]) == notes
    assert notes["training"] == run.training
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]


def test_a_torch_file_answers_as_the_model_does(run, tmp_path):
    path = tmp_path / "network.pt2"
    notes = export.export(run, path, format="torch")
    files = {export.NOTES: ""}
    network = torch.export.load(path, extra_files=files).module()
    assert json.loads(files[export.NOTES]) == notes
    x = X[:7, : run.model.n_features_in_].reshape(-1, *run.model.input_shape_).astype(np.float32)
    scale = getattr(run.model, "y_scale_", 1.0)
    answers = network(torch.from_numpy(x))[-1].numpy()
    np.testing.assert_allclose(answers / scale, expected(run.model, x) / scale, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporter about itself
@pytest.mark.parametrize(("encoder", "shape"), [(mlp([6, 5, 3]), (6,)), (WideResNet((2, 8, 8), 3), (2, 8, 8))])
def test_a_ladders_encoder_is_accepted_by_both_exporters(encoder, shape, tmp_path):
    ladder = Ladder(encoder, input_shape=shape).eval()
    x = torch.randn(5, *shape)
    program = torch.export.export(ladder.encoder, (x,))
    torch.testing.assert_close(torch.softmax(program.module()(x), 1), ladder.predict(x), rtol=1e-5, atol=1e-5)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(program, (x,), str(path), dynamo=True, verbose=False, external_data=False, input_names=["x"])
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.softmax(torch.from_numpy(logits), 1), ladder.predict(x), rtol=1e-5, atol=1e-5)


def test_images_without_contrast_are_exported_as_they_are_predicted(tmp_path):
    """What rounding leaves of an even image is not blown up, by the exported network no more than by the model."""
    model = MODELS["whitened"]()
    path = tmp_path / "network.onnx"
    export.export(Run(model=model, training={}, metrics={}), path, format="onnx")
    levels = np.array([0.1, 1 / 3, 0.7, 12.3, 254.9])
    x = np.repeat(levels, 64).astype(np.float32).reshape(-1, 1, 8, 8)
    (_, answers) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    np.testing.assert_allclose(answers, model.predict_proba(x), rtol=0, atol=1e-5)
    np.testing.assert_allclose(answers, answers[:1].repeat(5, axis=0), rtol=0, atol=1e-6)


def test_columns_of_a_data_frame_are_noted(tmp_path):
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    model = LadderClassifier((5,), max_epochs=1).fit(frame, Y)
    notes = export.export(Run(model=model, training={}, metrics={}), tmp_path / "network.pt2", format="torch")
    assert notes["input"]["columns"] == ["a", "b", "c"]
    assert notes["preparation"] is None


class Sorting(nn.Module):
    """What torch can export, but ONNX has no operator for."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(64, 10)

    def forward(self, x):
        return self.map(x + torch.linalg.eigvalsh(x.view(-1, 8, 8)).sum(dim=1, keepdim=True) * 0)


def test_what_an_exporter_cannot_do_is_an_error_of_ours_and_leaves_nothing(tmp_path):
    model = LadderClassifier(module=Sorting(), variant="gamma", max_epochs=1).fit(X, Y)
    with pytest.raises(RunError, match="the network cannot be exported"):
        export.export(Run(model=model, training={}, metrics={}), tmp_path / "network.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_or_left_half_written(tmp_path, monkeypatch):
    run = Run(model=MODELS["rows"](), training={}, metrics={})
    path = tmp_path / "network.onnx"
    path.write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        export.export(run, path, format="onnx")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match="answers differ from the model's"):
        export.export(run, path, format="onnx", overwrite=True)
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    with pytest.raises(RunError, match=r"x.onnx cannot be written: .+Name another file with --out"):
        export.export(run, Path("/proc/x.onnx"), format="onnx")
    with pytest.raises(RunError, match="there is no folder .*no. Make it, or name another file"):
        export.export(run, tmp_path / "no" / "x.onnx", format="onnx")
