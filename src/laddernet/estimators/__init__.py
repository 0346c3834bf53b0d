"""scikit-learn's face of the ladder: `LadderClassifier` and `LadderRegressor`."""

from laddernet.estimators.classifier import LadderClassifier
from laddernet.estimators.regressor import LadderRegressor
from laddernet.estimators.together import fit_together

__all__ = ["LadderClassifier", "LadderRegressor", "fit_together"]
