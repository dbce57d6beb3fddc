"""Estimators for scikit-learn.

They can be cloned, pickled and used in pipelines and grid searches like scikit-learn's own. Inputs
and outputs are NumPy arrays.
"""

from metastep.sklearn._same_features import (
    DifferentFeaturesWarning as DifferentFeaturesWarning,
)
from metastep.sklearn.hypercleaned_classifier import (
    HypercleanedClassifier as HypercleanedClassifier,
)
from metastep.sklearn.hypercleaned_model import HypercleanedModel as HypercleanedModel
from metastep.sklearn.hypercleaned_regressor import (
    HypercleanedRegressor as HypercleanedRegressor,
)
from metastep.sklearn.hypergradient_logistic_regression import (
    HypergradientLogisticRegression as HypergradientLogisticRegression,
)
from metastep.sklearn.hypergradient_ridge import HypergradientRidge as HypergradientRidge
from metastep.sklearn.label_ranking import LabelRanking as LabelRanking
from metastep.sklearn.label_ranking import deal_folds as deal_folds
from metastep.sklearn.label_ranking import rank_labels as rank_labels
from metastep.sklearn.masked_dictionary_learning import (
    MaskedDictionaryLearning as MaskedDictionaryLearning,
)
