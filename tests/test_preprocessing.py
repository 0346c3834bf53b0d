import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from laddernet.preprocessing import GlobalContrastNormalization, ZCAWhitening, normalize_contrast
from laddernet.scaling import PIXELS, Whitening, fit_scaling


@parametrize_with_checks([GlobalContrastNormalization(), ZCAWhitening()])
def test_scikit_learns_conventions(estimator, check):
    check(estimator)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal((300, 1)) + 0.3 * rng.standard_normal((300, 12)).cumsum(axis=1)
    return 0.5 + 0.1 * smooth


def test_contrast_is_each_rows_own(images):
    rows = GlobalContrastNormalization(norm=7.0).fit_transform(images)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 7)
    np.testing.assert_allclose(GlobalContrastNormalization(norm=7.0).fit_transform(3 * images + 1), rows, atol=1e-9)


def test_a_row_without_contrast_becomes_zero():
    rows = GlobalContrastNormalization().fit_transform([[0.1] * 5, [0.0] * 5, [1, 2, 3, 4, 5]])
    assert (rows[:2] == 0).all()
    assert np.linalg.norm(rows[2]) == pytest.approx(55)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.1, 1 / 3, 0.7, 254.9, 1e-30, 1e30])
def test_rounding_is_no_contrast(dtype, level):
    rows = np.full((3, 3073), level, dtype=dtype)
    assert (normalize_contrast(rows, 55.0) == 0).all()
    rows[0, :1500] *= 1.5
    assert np.linalg.norm(normalize_contrast(rows, 55.0).astype(float), axis=1) == pytest.approx([55, 0, 0], rel=1e-5)


def test_whitening_of_fewer_rows_than_columns_with_hardly_any_regularisation(images):
    zca = ZCAWhitening(regularization=1e-30).fit(images[:5])
    assert np.isfinite(zca.whitening_).all()
    assert np.isfinite(zca.transform(images)).all()


def test_whitening_gives_the_covariance_that_the_regularisation_leaves(images):
    zca = ZCAWhitening(regularization=1e-3).fit(images)
    white = zca.transform(images)
    covariance = np.cov(images.T, bias=True)
    left = np.linalg.inv(covariance + 1e-3 * np.eye(12)) @ covariance
    np.testing.assert_allclose(np.cov(white.T, bias=True), left, atol=1e-9)
    np.testing.assert_allclose(zca.whitening_, zca.whitening_.T)
    np.testing.assert_allclose(zca.inverse_transform(white), images, atol=1e-9)


def test_only_the_training_rows_are_measured(images):
    zca = ZCAWhitening().fit(images[:200])
    alone = zca.transform(images[200:201])
    np.testing.assert_allclose(zca.transform(images)[200:201], alone)
    assert zca.transform(images.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("transformer", "message"),
    [(GlobalContrastNormalization(0), "norm must be positive"), (ZCAWhitening(-1), "regularization must be positive")],
)
def test_absurd_settings_are_refused(transformer, message, images):
    with pytest.raises(ValueError, match=message):
        clone(transformer).fit(images)


def test_the_estimators_whitening_is_the_two_in_a_row(images):
    scaling = fit_scaling(images, "whitened")
    assert isinstance(scaling, Whitening)
    expected = make_pipeline(GlobalContrastNormalization(), ZCAWhitening()).fit(images).transform(images)
    np.testing.assert_allclose(scaling.apply(images, np.float64), expected, rtol=1e-4, atol=1e-4)
    assert scaling.size == pytest.approx(np.sqrt(np.mean(expected.var(axis=0))), rel=1e-3)
    assert scaling.weigh((1000, 10)) == pytest.approx((1000 * (PIXELS / scaling.size) ** 2, 10))
    contrast = GlobalContrastNormalization().fit_transform(images)
    np.testing.assert_allclose(scaling.invert(scaling.apply(images, np.float64)), contrast, atol=1e-6)
    with pytest.raises(ValueError, match="column_weights have no meaning with input_scaling='whitened'"):
        fit_scaling(images, "whitened", np.ones(12))
