import numpy as np
from sklearn.datasets import load_diabetes, load_digits, load_iris

from laddernet import LadderClassifier

IRIS_X, IRIS_Y = load_iris(return_X_y=True)
DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)
DIABETES_X, DIABETES_Y = load_diabetes(return_X_y=True)


def small(kind=LadderClassifier, **settings):
    return kind(
        **{
            "hidden_layer_sizes": (30,),
            "max_epochs": 60,
            "batch_size": 30,
            "learning_rate": 0.01,
            "random_state": 0,
            **settings,
        }
    )


def few(y, per_class=8, mark=-1, dtype=None):
    """Keep the first labels of each class."""
    hidden = np.array(y, dtype=dtype)
    for label in np.unique(y):
        hidden[np.flatnonzero(y == label)[per_class:]] = mark
    return hidden
