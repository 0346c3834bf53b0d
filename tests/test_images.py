import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from laddernet.cli import app
from laddernet.data.images import read_images
from laddernet.errors import DataError
from laddernet.folders import ImageOptions, prepare_images

X, Y = load_digits(return_X_y=True)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "laddernet" / "images"


def picture(row, size=8):
    return Image.fromarray((X[row].reshape(8, 8) * 15).astype(np.uint8)).resize((size, size))


@pytest.fixture
def folder(tmp_path):
    """Three digits, some labelled, of sizes and kinds of their own, and what does not belong there."""
    root = tmp_path / "my digits"
    for row in np.flatnonzero(Y < 3)[:240]:
        part = ("zero", "one", "two")[Y[row]] if row < 300 else "unlabeled"
        (root / part).mkdir(parents=True, exist_ok=True)
        suffix = (".png", ".jpg", ".bmp")[row % 3]
        picture(row, 8 + row % 5).save(root / part / f"{row}{suffix}")
    (root / "zero" / "notes.txt").write_text("not an image")
    (root / "zero" / ".hidden.png").write_text("not an image")
    (root / ".git").mkdir()
    return root


class TestProcesses:
    def test_several_give_what_one_gives(self, folder, cache):
        seen = []
        several = read_images(folder, size=8, workers=2, on_image=lambda done, of: seen.append((done, of)))
        assert seen[-1] == (240, 240)
        several = np.array(several.x)
        assert [path.suffix for path in cache.iterdir()] == [".npy"]
        shutil.rmtree(cache)
        np.testing.assert_array_equal(read_images(folder, size=8, workers=0).x, several)

    def test_an_image_that_cannot_be_read_is_named(self, folder, cache):
        (folder / "one" / "bad.png").write_bytes(b"no image")
        with pytest.raises(DataError, match="bad.png cannot be read as an image"):
            read_images(folder, size=8, workers=2)
        assert list(cache.iterdir()) == []

    @pytest.mark.fault("a process that reads images is killed", "an error that names the images it may have been at")
    def test_one_that_dies_is_told(self, folder, cache):
        def kill(done, of):
            multiprocessing.active_children()[0].kill()

        with pytest.raises(
            DataError, match="a process that reads images died.*Being read were .*/my digits/.*Close"
        ) as e:
            read_images(folder, size=8, workers=2, on_image=kill)
        assert str(e.value).count("/my digits/") <= 2  # one for each process
        assert list(cache.iterdir()) == []
        assert read_images(folder, size=8, workers=2).x.shape == (240, 1, 8, 8)

    @pytest.mark.fault("the process that waits for them is killed", "they end; nothing is left", times=1)
    def test_they_do_not_outlive_the_one_that_waits_for_them(self, folder, cache, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(
            "import multiprocessing, os, signal, sys\n"
            "from pathlib import Path\n"
            "from laddernet.data.images import read_images\n"
            "def die(done, of):\n"
            "    print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "if __name__ == '__main__':\n"
            "    read_images(Path(sys.argv[1]), size=8, workers=2, on_image=die)\n"
        )
        ended = subprocess.run([sys.executable, script, folder], stdout=subprocess.PIPE, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL
        children = ended.stdout.split()
        assert len(children) == 2
        deadline = time.monotonic() + 60  # they have ended before that, or never will
        while any(is_alive(child) for child in children) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(is_alive(child) for child in children)
        assert list(cache.iterdir()) == []

    def test_a_script_without_a_guard_is_told(self, folder, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\nfrom pathlib import Path\nfrom laddernet.data.images import read_images\n"
            "read_images(Path(sys.argv[1]), size=8, workers=1)\n"
        )
        ended = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert 'In a script of your own, read images under if __name__ == "__main__"' in ended.stderr


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class TestRoom:
    """The cache is a convenience, but for images that memory does not hold."""

    def test_few_images_are_read_without_it(self, folder, cache, full_disk):
        images = read_images(folder, size=8)  # 46,080 bytes
        assert images.x.shape == (240, 1, 8, 8)
        assert list(cache.iterdir()) == []

    def test_an_error_of_whoever_watches_is_not_taken_for_one_of_room(self, folder, cache):
        seen = []

        def watch(done, of):
            seen.append(done)
            if done == 3:
                raise BrokenPipeError("nobody listens")

        with pytest.raises(BrokenPipeError):
            read_images(folder, size=8, on_image=watch)
        assert seen == [1, 2, 3]
        assert list(cache.iterdir()) == []

    def test_many_are_not(self, folder, cache, full_disk, monkeypatch):
        monkeypatch.setattr("laddernet.data.images.IN_MEMORY", 1000)
        with pytest.raises(DataError, match=r"240 images of 8 by 8 take 92,160 bytes in the cache .*Make room there"):
            read_images(folder, size=8)
        assert list(cache.iterdir()) == []


def test_a_subfolder_that_may_not_be_read_is_not_left_out():
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are the user's alone
        root = Path(name)
        for place in ("a", "a/deep", "b"):
            (root / place).mkdir()
            picture(1).save(root / place / "1.png")
        root.chmod(0o755)
        (root / "a" / "deep").chmod(0o700 if os.geteuid() == 0 else 0)
        with not_as_root(), pytest.raises(DataError, match=r"a/deep cannot be read \(Permission denied\)"):
            read_images(root, size=8)
        (root / "a" / "deep").chmod(0o700)


@contextmanager
def not_as_root():
    """Do it as a user who is not allowed everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestReading:
    def test_classes_sizes_and_what_does_not_belong(self, folder, cache):
        images = read_images(folder, size=8)
        assert images.x.shape == (240, 1, 8, 8)
        assert images.x.dtype == np.uint8
        counts = pd.Series(images.labels).value_counts(dropna=False)
        assert set(counts.index[counts.index.notna()]) == {"zero", "one", "two"}
        assert counts[counts.index.isna()].sum() == sum(1 for _ in (folder / "unlabeled").iterdir())
        row = int(images.paths[0].stem)
        original = X[row].reshape(8, 8) * 15
        assert np.abs(images.x[0, 0].astype(float) - original).mean() < 25
        assert len(list(cache.iterdir())) == 1

    def test_colour_where_one_image_is_in_colour(self, tmp_path):
        for name, colour in (("a", (250, 0, 0)), ("b", (0, 0, 250))):
            (tmp_path / name).mkdir()
            Image.new("RGB", (30, 20), colour).save(tmp_path / name / "1.png")
        Image.new("L", (30, 20), 77).save(tmp_path / "a" / "2.png")
        images = read_images(tmp_path, size=5)
        assert images.x.shape == (3, 3, 5, 5)
        assert images.x[0, :, 2, 2].tolist() == [250, 0, 0]
        assert images.x[1, :, 2, 2].tolist() == [77, 77, 77]
        grey = read_images(tmp_path, size=5, channels=1)
        assert grey.x[:, 0, 2, 2].tolist() == [75, 77, 28]
        assert read_images(tmp_path, size=5, fewest_classes=None).labels.tolist() == [None] * 3

    def test_kinds_of_files(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b" / "deeper").mkdir(parents=True)
        gradient = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        Image.fromarray(gradient).save(tmp_path / "a" / "sixteen.png")
        Image.new("RGBA", (8, 8), (10, 20, 30, 40)).save(tmp_path / "a" / "alpha.webp", lossless=True)
        Image.new("P", (8, 8)).save(tmp_path / "b" / "deeper" / "palette.gif")
        turned = Image.new("RGB", (8, 4), (0, 255, 0))
        exif = turned.getexif()
        exif[0x0112] = 6
        turned.save(tmp_path / "b" / "turned.JPG", exif=exif)
        images = read_images(tmp_path, size=8)
        assert [path.name for path in images.paths] == ["alpha.webp", "sixteen.png", "palette.gif", "turned.JPG"]
        assert images.x[1, 0].max() == 255
        assert abs(int(images.x[1, 0, 4, 0]) - gradient[4, 0] / 257) < 2

    def test_the_second_reading_comes_from_the_cache(self, folder, cache):
        seen = []
        first = read_images(folder, size=8, on_image=lambda done, of: seen.append((done, of)))
        assert seen[-1] == (240, 240)
        again = read_images(folder, size=8, on_image=lambda done, of: pytest.fail("it was there"))
        np.testing.assert_array_equal(again.x, first.x)
        picture(500).save(next((folder / "one").glob("*.png")))  # a changed file is read again
        assert not np.array_equal(read_images(folder, size=8).x, first.x)

    def test_a_damaged_cache_is_made_anew(self, folder, cache):
        first = np.array(read_images(folder, size=8).x)  # what follows truncates the file that is mapped
        (kept,) = cache.iterdir()
        whole = kept.read_bytes()
        no_end = whole.replace(b"}", b" ", 1)  # of the header
        shifted = whole.replace(b" \n", b"\n" + whole[-1:], 1)
        for damage in (b"", b"\x93NUMPY", whole[:-100], whole + b"more", no_end, b"PK" + whole[2:], shifted):
            kept.write_bytes(damage)
            np.testing.assert_array_equal(read_images(folder, size=8).x, first)
        shutil.rmtree(cache)
        cache.write_text("in the way")
        np.testing.assert_array_equal(read_images(folder, size=8).x, first)

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda root: (root / "one" / "bad.png").write_bytes(b"no image"), r"bad.png cannot be read as an image"),
            (lambda root: (root / "one" / "cut.png").write_bytes(next((root / "one").glob("*.png")).read_bytes()[:80]),
             r"cut.png cannot be read as an image"),
            (lambda root: [shutil.rmtree(root / name) for name in ("one", "two")], "has images of 1: it needs two"),
            (lambda root: [shutil.rmtree(root / n) for n in ("zero", "one", "two")], "has no subfolder"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_used_is_named(self, folder, harm, message):
        harm(folder)
        with pytest.raises(DataError, match=message):
            read_images(folder, size=8)

    def test_a_folder_without_images(self, tmp_path):
        with pytest.raises(DataError, match="has no subfolder with images"):
            read_images(tmp_path, size=8)
        with pytest.raises(DataError, match="holds no images"):
            read_images(tmp_path, size=8, fewest_classes=None)
        with pytest.raises(DataError, match="there is no folder"):
            read_images(tmp_path / "gone", size=8)

    def test_levels_are_those_of_the_kind_of_file(self, tmp_path):
        """A dark file of 16 bits, or of floats, stays dark beside a bright one."""
        dark, bright = np.full((8, 8), 0.1), np.full((8, 8), 0.9)
        for name, values in (("dark", dark), ("bright", bright)):
            (tmp_path / name).mkdir()
            Image.fromarray((65535 * values).astype(np.uint16)).save(tmp_path / name / "1.png")
            Image.fromarray((65535 * values).astype(np.uint16)).save(tmp_path / name / "2.tif")
            Image.fromarray(values.astype(np.float32)).save(tmp_path / name / "3.tif")
            big = b"P5 8 8 65535 " + (65535 * values).astype(">u2").tobytes()
            (tmp_path / name / "4.pgm").write_bytes(big)
            Image.fromarray(np.rint(255 * values).astype(np.uint8)).save(tmp_path / name / "5.png")
        levels = read_images(tmp_path, size=4).x[:, 0, 2, 2].astype(int)
        np.testing.assert_allclose(levels, [229] * 5 + [25] * 5, atol=1)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((8, 8), 200.0, dtype=np.float32), r"not all in 0..1"),
            (np.full((8, 8), np.nan, dtype=np.float32), r"not all in 0..1"),
            (np.full((8, 8), 70_000, dtype=np.int32), r"32 bits, whose white is not known"),
        ],
    )
    def test_levels_without_a_known_white_are_refused(self, folder, values, message):
        Image.fromarray(values).save(folder / "one" / "odd.tif")
        with pytest.raises(DataError, match=f"odd.tif cannot be read as an image .*{message}"):
            read_images(folder, size=8)

    def test_links_are_followed_and_no_folder_is_read_twice(self, folder, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        picture(3).save(elsewhere / "three.png")
        (folder / "one" / "more").symlink_to(elsewhere)
        (folder / "one" / "again").symlink_to(folder / "one")
        for fewest_classes in (2, None):
            images = read_images(folder, size=8, fewest_classes=fewest_classes)
            assert len(images.paths) == 241
            assert folder / "one" / "more" / "three.png" in images.paths

    def test_names_that_are_no_text(self, folder):
        picture(3).save(folder / "one" / "three.png")
        (folder / "one" / "three.png").rename(os.fsdecode(os.fsencode(folder / "one") + b"/\xff.png"))
        images = read_images(folder, size=8)
        assert "one/?.png" in images.names(folder)
        (folder / "two").rename(os.fsdecode(os.fsencode(folder) + b"/\xff"))
        with pytest.raises(DataError, match="a class whose name is no text"):
            read_images(folder, size=8)

    @pytest.mark.parametrize("name", ["Unlabeled", "UNLABELLED"])
    def test_unlabeled_in_any_case(self, folder, name):
        (folder / "unlabeled").rename(folder / name)
        images = read_images(folder, size=8)
        assert set(images.labels.tolist()) == {"zero", "one", "two", None}

    def test_what_is_left_out_is_said(self, folder):
        (folder / "empty").mkdir()
        for row in range(7):
            picture(row).save(folder / f"beside-{row}.png")
        with pytest.warns(UserWarning, match=r"left out of .*beside-\d.png.* and 3 more"):
            assert len(read_images(folder, size=8).paths) == 240


def test_sizes_too_small_for_the_network_are_refused_before_an_image_is_read(folder):
    def watch(title):
        pytest.fail("the images were read")

    with pytest.raises(DataError, match="2 by 2 are too small for conv_small"):
        prepare_images(folder, ImageOptions(size=2, network="conv_small"), watch)


def test_test_images_may_be_of_one_class(folder, tmp_path):
    (tmp_path / "test" / "one").mkdir(parents=True)
    picture(1).save(tmp_path / "test" / "one" / "1.png")
    prepared = prepare_images(folder, ImageOptions(size=8, test=tmp_path / "test"), silent)
    assert prepared.y_test.tolist() == ["one"]


def silent(title):
    import contextlib

    return contextlib.nullcontext(lambda done, of: None)


def test_test_images_are_kept_out_and_labels_hidden(folder):
    prepared = prepare_images(folder, ImageOptions(size=8, labels=9, test_fraction=0.3, seed=1), silent)
    assert sorted(pd.Series(prepared.y_train.values).value_counts()) == [3, 3, 3]
    assert len(prepared.y_test) > 10
    assert len(prepared.x_train) + len(prepared.x_test) == 240
    assert all(label is not None for label in prepared.y_test)
    everything = prepare_images(folder, ImageOptions(size=8, test=folder), silent)
    assert len(everything.x_train) == 240
    assert len(everything.x_test) == len(everything.y_train.numbers)
    whole = prepare_images(folder, ImageOptions(size=8, test_fraction=0), silent)
    assert (len(whole.x_train), len(whole.x_test)) == (240, 0)


def test_test_images_of_unknown_classes_are_refused(folder, tmp_path):
    other = tmp_path / "other"
    for name in ("one", "seven"):
        (other / name).mkdir(parents=True)
        picture(0).save(other / name / "1.png")
    with pytest.raises(DataError, match="classes that the training images have not: seven"):
        prepare_images(folder, ImageOptions(size=8, test=other), silent)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class TestCommands:
    def test_train_predict_evaluate(self, folder, tmp_path):
        run = tmp_path / "run"
        result = call("train", folder, "--image-size", 8, "--epochs", 30, "--out", run, "--json")
        assert result.exit_code == 0, result.stderr
        shown = " ".join(result.stdout.split())
        assert "3 classes (one " in shown
        assert "grey, 8 by 8; seed 0" in shown
        report = json.loads(result.stdout.splitlines()[-1])
        assert report["image_size"] == 8
        assert report["test_error"] < 40
        assert {"baseline_test_error", "seconds", "run"} <= set(report)
        out = tmp_path / "answers.csv"
        assert call("predict", run, folder, "--out", out).exit_code == 0
        answers = pd.read_csv(out)
        assert list(answers.columns) == ["file", "prediction", "probability_one", "probability_two", "probability_zero"]
        assert len(answers) == 240
        truth = answers["file"].str.split("/").str[0]
        known = truth != "unlabeled"
        error = 100 * (answers["prediction"] != truth)[known].mean()
        refused = call("predict", run, out, "--out", tmp_path / "again.csv")
        assert "was trained on a folder of images, but" in refused.stderr
        assert refused.exit_code == 1
        evaluated = call("evaluate", run, folder, "--json")
        assert "was trained on a folder of this name" in evaluated.stderr
        assert json.loads(evaluated.stdout.splitlines()[-1])["test_error"] == pytest.approx(error)

    def test_export(self, folder, tmp_path):
        run = tmp_path / "run"
        settings = ("--image-size", 8, "--epochs", 1, "--no-baseline", "--test-fraction", 0)
        result = call("train", folder, *settings, "--out", run)
        assert "no test images" in result.stderr
        result = call("export", run, "--format", "torch")
        assert result.exit_code == 0, result.stderr
        assert "x of shape (batch, 1, 8, 8) to logits, probabilities" in " ".join(result.stdout.split())
        assert (run / "network.pt2").exists()
        again = call("export", run, "--format", "torch")
        assert again.exit_code == 1
        assert "exists already" in again.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--recipe", "mnist-100"), "--recipe"),
            (("--label-column", "y"), "--label-column"),
            (("--test-fraction", "0.2", "--test", "."), "--test-fraction"),
            (("--data-dir", "."), "--data-dir"),
        ],
    )
    def test_options_that_have_no_meaning_are_refused(self, folder, arguments, message):
        result = call("train", folder, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_options_of_images_are_for_images(self):
        result = call("train", "digits", "--image-size", "8")
        assert result.exit_code == 2
        assert "is for a folder of images" in " ".join(result.stderr.replace("│", " ").split())
