"""A learned optimizer that applies one small feed-forward network to every parameter."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from metastep.checks import integer, require_count
from metastep.learned import features as feature
from metastep.learned.learned import AbstractLearnedOptimizer, cast, check_params
from metastep.types import RandomKey

OUTPUT_SCALE = 0.001


class MLPOptimizerState(eqx.Module):
    """The state of the optimizer.

    Attributes:
        count: int32 scalar, the number of steps taken.
        mean: the structure of the parameters; running means of the gradient, shape (5, size).
        square: likewise of its square.
    """

    count: Int[Array, ""]
    mean: PyTree[Array]
    square: PyTree[Array]


class MLPOptimizer(AbstractLearnedOptimizer):
    """Feed 31 features of each parameter through a 31-32-2 ReLU network; the outputs are the step.

    With outputs (direction, magnitude) a parameter changes by
    -0.001 direction exp(0.001 magnitude). All parameters share the weights, so an optimizer
    trained on one network can be applied to any other. Cost per parameter: about 1800
    multiplications and 22 numbers of memory in a step; ten numbers of state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.learned import MLPOptimizer
        >>> family = MLPOptimizer()
        >>> optimizer = family(family.initial_weights(jax.random.key(0)))
        >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> jax.tree.map(jnp.shape, updates), int(state.count)
        ({'b': (2,), 'w': (3, 2)}, 1)

    Reference:
        Metz et al. (2019), Understanding and correcting pathologies in the training of learned
        optimizers, and their published code; Wang et al. (2021), Appendix F.

    Attributes:
        hidden: units of the hidden layer.
        standardize: how the features of a step are normalized. False, as in the authors' code:
            divided by their root mean square over each tensor. True, as in the papers' text: to
            mean 0 and standard deviation 1 over all parameters together. Every tensor is then
            read twice, and its update depends on the entries of the others.
        fan_in: initial weights have variance 1 / inputs. False gives the variance 1 of the
            authors' code, from which a short meta-training does not recover.
    """

    state_depends_on_weights: ClassVar[bool] = False  # it holds moments of gradients only
    hidden: int = eqx.field(static=True, default=32, converter=integer)
    standardize: bool = eqx.field(static=True, default=False)
    fan_in: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        require_count("hidden", self.hidden)

    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return normally distributed matrices and biases of 0.1."""

        def layer(key: RandomKey, inputs: int, outputs: int) -> dict[str, Array]:
            deviation = inputs**-0.5 if self.fan_in else 1.0
            weight = deviation * jax.random.normal(key, (inputs, outputs))
            return {"weight": weight, "bias": jnp.full(outputs, 0.1, weight.dtype)}

        hidden_key, output_key = jax.random.split(key)
        return {
            "hidden": layer(hidden_key, feature.FEATURES, self.hidden),
            "output": layer(output_key, self.hidden, 2),
        }

    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation; its `update` needs the parameters."""

        def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
            check_params(updates)
            if params is None:
                raise ValueError(
                    "params is None; update(grads, state, params) needs the parameters."
                )
            grads, structure = jax.tree.flatten(updates)
            flat = [jnp.ravel(grad) for grad in grads]
            leaves = lambda tree: structure.flatten_up_to(tree)
            moments = [
                feature.update_moments(*one)
                for one in zip(leaves(state.mean), leaves(state.square), flat, strict=True)
            ]
            params = [jnp.ravel(param) for param in leaves(params)]
            rows = [
                feature.entry_features(grad, *both)
                for grad, both in zip(flat, moments, strict=True)
            ]
            if self.standardize:
                rows, params = _standardized(rows, params)
            # The first step has number 1, as in the published code.
            count = jnp.asarray(optax.safe_increment(state.count))
            normalize = not self.standardize
            steps = [
                _apply(cast(weights, row), row, param, count, normalize).reshape(grad.shape)
                for grad, row, param in zip(grads, rows, params, strict=True)
            ]
            means, squares = (structure.unflatten(part) for part in zip(*moments, strict=True))
            return structure.unflatten(steps), MLPOptimizerState(count, means, squares)

        return optax.GradientTransformation(_init, update)


def _init(params: Any) -> Any:
    check_params(params)
    empty = lambda leaf: jnp.zeros((len(feature.DECAYS), jnp.size(leaf)), jnp.result_type(leaf))
    zeros = jax.tree.map(empty, params)
    return MLPOptimizerState(jnp.zeros((), jnp.int32), zeros, zeros)


def _standardized(rows: list[Array], params: list[Array]) -> tuple[list[Array], list[Array]]:
    scaled = feature.standardized([row[:-1] for row in rows])
    rows = [jnp.concatenate([one, row[-1:]]) for one, row in zip(scaled, rows, strict=True)]
    return rows, [one[0] for one in feature.standardized([param[None] for param in params])]


def _apply(
    weights: PyTree,
    rows: Float[Array, "22 entries"],
    param: Float[Array, " entries"],
    count: Int[Array, ""],
    normalize: bool,
) -> Float[Array, " entries"]:
    """Run the network on all entries of a tensor.

    The normalizer is merged into the first matrix, and the time features, which all entries share,
    into its bias: no row is read before the product. The matrix is transposed before it is scaled,
    since the library's product is slower on a transposed matrix.
    """
    hidden, output = weights["hidden"], weights["output"]
    ends = [feature.PARAMETER, feature.PARAMETER + 1, feature.PER_ENTRY]
    before, own, after, of_time = jnp.split(hidden["weight"].T, ends, axis=1)
    matrix, own = jnp.concatenate([before, after], axis=1), own[:, 0]
    if normalize:
        # Otherwise XLA computes all rows once for the normalizer and once for the product.
        rows = jax.lax.optimization_barrier(rows)
        # The row of ones, which multiplies the bias, is not normalized.
        matrix = matrix * feature.scale_of_tensor(rows)[:-1]
        own = own * feature.scale_of_tensor(param[None])
    bias = hidden["bias"] + of_time @ feature.time_features(count, rows.dtype)
    matrix = jnp.concatenate([matrix, bias[:, None]], axis=1)
    # `einsum`, not a broadcast: the derivative of `own` is a product then, not a slow sum.
    units = jax.nn.relu(matrix @ rows + jnp.einsum("u,n->un", own, param))
    direction, magnitude = output["weight"].T @ units + output["bias"][:, None]
    return -OUTPUT_SCALE * direction * jnp.exp(OUTPUT_SCALE * magnitude)
