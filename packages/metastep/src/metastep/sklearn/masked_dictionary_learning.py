"""Dictionary learning with hard sparsity as a scikit-learn estimator."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from metastep.sparse_coding import learn_dictionary, masked_loss, orthogonal_matching_pursuit
from metastep.sparse_coding.synthetic import sample_start

SCORE_PARTS = 10
FLOATS: Any = (np.float64, np.float32)


class MaskedDictionaryLearning(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn atoms, few of which explain each sample, by predicting hidden features.

    A drop-in for `sklearn.decomposition.DictionaryLearning` with hard sparsity. In every step it
    decodes a batch from a random part of the features by orthogonal matching pursuit, predicts the
    others and moves the atoms to predict them better. Noise in the hidden features cannot be
    learned in this way. With many atoms, masking therefore recovers the atoms that generated the
    data better than `mask_fraction=0` does. For denoising neither is better in general.

    Features are expected on one scale, with noise that is independent from feature to feature.
    Data are not centered.

    Args:
        n_components: number of atoms; None for the number of features.
        transform_n_nonzero_coefs: atoms for each sample, in `fit`, `transform` and `score`; None
            for a tenth of the features, at least one. At most the number of visible features.
        mask_fraction: the part of the features that is hidden from each batch, from 0 to below 1;
            0 is plain dictionary learning (Algorithm 2), otherwise at least one feature is hidden.
        max_iter: passes over the samples.
        batch_size: samples in each step.
        learning_rate: of Adam, for atoms of unit norm; the scale of the data does not matter.
        dict_init: (n_components, n_features), the initial atoms. None for random samples, completed
            by Gaussian atoms if there are too few samples.
        random_state: seed of the first atoms, the batches and the masks.

    Attributes:
        components_: (n_components, n_features), atoms of unit norm, in the dtype of the data.
        loss_curve_: mean squared error of the hidden features in each pass (of all features
            without masking), in units of the data.
        n_iter_: number of passes.
        n_steps_: number of gradient steps.
        n_features_in_: number of features.
        feature_names_in_: their names, where X had names.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> digits = load_digits().data[:300] / 16
        >>> model = MaskedDictionaryLearning(30, max_iter=20, random_state=0).fit(digits)
        >>> model.transform(digits).shape, model.score(digits) > -0.1
        ((300, 30), True)

    Reference:
        Chidambaram, Wu, Cheng and Ge (2023), Algorithm 3.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        transform_n_nonzero_coefs: int | None = None,
        mask_fraction: float = 0.1,
        max_iter: int = 500,
        batch_size: int = 200,
        learning_rate: float = 1e-3,
        dict_init: ArrayLike | None = None,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.transform_n_nonzero_coefs = transform_n_nonzero_coefs
        self.mask_fraction = mask_fraction
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dict_init = dict_init
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: None = None) -> "MaskedDictionaryLearning":
        """Learn the atoms.

        Args:
            X: (n_samples, n_features).
            y: ignored.

        Raises:
            ValueError: if the data or a parameter cannot be used.
            TypeError: if a parameter is of the wrong type.
        """
        data = self._checked(X, reset=True)
        self._check_parameters()
        atoms, features = self.n_components or data.shape[1], data.shape[1]
        # At least one feature on either side: nothing is predicted from none.
        hidden = min(max(1, int(self.mask_fraction * features)), features - 1)
        hidden = hidden if self.mask_fraction else 0
        sparsity, most = self._sparsity(features, atoms), min(atoms, features - hidden)
        if sparsity > most:
            raise ValueError(
                f"transform_n_nonzero_coefs is {sparsity}; it cannot be more than the number of "
                f"components or of visible features, {most}"
            )
        random_state = check_random_state(self.random_state)
        # `learn_dictionary` takes a generator, and `random_state` may be one of NumPy's old states.
        rng = np.random.default_rng(random_state.randint(2**31, size=4))
        # In float64: in float32 the squares of 1e-24 are 0, and those of 1e20 infinite.
        scale = float(np.sqrt(np.mean(np.square(data, dtype=np.float64)))) or 1.0
        learned = learn_dictionary(
            # Adam moves atoms of unit norm by the step size, whatever the units of the data.
            data / data.dtype.type(scale),
            self._start(data, atoms, rng),
            sparsity,
            hidden=hidden,
            epochs=self.max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            shuffle=True,
            rng=rng,
        )
        self.components_ = learned.dictionary.T
        self.loss_curve_ = learned.losses.mean(axis=1) * scale**2
        self.n_iter_, self.n_steps_ = len(learned.losses), learned.losses.size
        return self

    def _checked(self, X: Any, reset: bool) -> np.ndarray:
        data: Any = validate_data(self, X, dtype=FLOATS, reset=reset)
        return data

    def _check_parameters(self) -> None:
        for name in ("n_components", "transform_n_nonzero_coefs"):
            if getattr(self, name) is not None:
                check_scalar(getattr(self, name), name, Integral, min_val=1)
        for name in ("max_iter", "batch_size"):
            check_scalar(getattr(self, name), name, Integral, min_val=1)
        bounds = {"min_val": 0, "max_val": 1, "include_boundaries": "left"}
        check_scalar(self.mask_fraction, "mask_fraction", Real, **bounds)
        bounds = {"min_val": 0, "include_boundaries": "neither"}
        check_scalar(self.learning_rate, "learning_rate", Real, **bounds)

    def _sparsity(self, features: int, atoms: int) -> int:
        return self.transform_n_nonzero_coefs or max(1, min(features // 10, atoms))

    def _start(self, data: np.ndarray, atoms: int, rng: np.random.Generator) -> np.ndarray:
        """Return the first dictionary, (n_features, n_components)."""
        features = data.shape[1]
        if self.dict_init is not None:
            kind: Any = data.dtype
            start: Any = check_array(self.dict_init, dtype=kind, input_name="dict_init")
            if start.shape != (atoms, features):
                raise ValueError(
                    f"dict_init has the shape {start.shape}; expected (n_components, n_features), "
                    f"{(atoms, features)}"
                )
            return sample_start(start)
        # A sample of zeros would be an atom of zero, which no step moves.
        candidates = data[np.any(data != 0, axis=1)]
        drawn = candidates[rng.permutation(len(candidates))[:atoms]]
        others = rng.standard_normal((atoms - len(drawn), features))
        return sample_start(np.concatenate([drawn, others.astype(data.dtype)]))

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return codes (n_samples, n_components): each sample as few atoms, from all features."""
        check_is_fitted(self)
        data = self._checked(X, reset=False)
        return orthogonal_matching_pursuit(data, *self._fitted(data))

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Return samples (n_samples, n_features) from codes (n_samples, n_components)."""
        check_is_fitted(self)
        codes: Any = check_array(X, dtype=FLOATS)
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"X has {codes.shape[1]} codes per sample; expected {len(self.components_)}"
            )
        return codes @ self.components_

    def score(self, X: ArrayLike, y: None = None) -> float:
        """Return minus the mean squared error of predicting features from the others.

        Higher is better. Each tenth of the features is hidden once. On samples that `fit` has not
        seen, this ranks sparsities and numbers of atoms without clean data: for noise of variance
        s^2 that is independent from feature to feature, its expectation is minus the error against
        the clean samples, minus s^2. It does not depend on `mask_fraction` or `random_state`.
        """
        check_is_fitted(self)
        data = self._checked(X, reset=False)
        # Fixed, so that models are compared on the same division of the features.
        rng = np.random.default_rng(0)
        return -masked_loss(data, *self._fitted(data), parts=SCORE_PARTS, rng=rng)

    def _fitted(self, data: np.ndarray) -> tuple[np.ndarray, int]:
        atoms, features = self.components_.shape
        return self.components_.astype(data.dtype, copy=False).T, self._sparsity(features, atoms)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
