"""A learned optimizer that applies one small recurrent network to every parameter."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from metastep.checks import integer, require_count
from metastep.learned.learned import AbstractLearnedOptimizer, cast, check_params
from metastep.types import RandomKey

INPUTS = 2
GATES = 4


class LSTMState(eqx.Module):
    """The state of the optimizer.

    Attributes:
        hidden: the structure of the parameters; outputs of the layers, shape (layers, units, size).
        cell: likewise their cells.
    """

    hidden: PyTree[Array]
    cell: PyTree[Array]


class CoordinatewiseLSTM(AbstractLearnedOptimizer):
    """Feed each parameter's gradient to an LSTM with its own state; the output is the step.

    All parameters share the weights. The state holds 2 layers * units numbers per parameter, and
    depends on the weights even where the gradients do not.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.learned import CoordinatewiseLSTM
        >>> family = CoordinatewiseLSTM(units=4)
        >>> optimizer = family(family.initial_weights(jax.random.key(0)))
        >>> params = jnp.ones((3, 2))
        >>> optimizer.update(params, optimizer.init(params))[0].shape
        (3, 2)

    Reference:
        Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient descent,
        section 2.1 and Appendix A.

    Attributes:
        units: the size of each layer.
        layers: the number of LSTM layers.
        output_scale: the factor of the output.
        precision: p of the preprocessing: gradients below exp(-p) enter linearly, larger ones by
            logarithm and sign.
    """

    state_depends_on_weights: ClassVar[bool] = True  # its hidden state is made by the network
    units: int = eqx.field(static=True, default=20, converter=integer)
    layers: int = eqx.field(static=True, default=2, converter=integer)
    output_scale: float = eqx.field(static=True, default=0.01)
    precision: float = eqx.field(static=True, default=10.0)

    def __check_init__(self):
        require_count("units", self.units)
        require_count("layers", self.layers)

    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return normally distributed matrices of variance 1 / inputs, with forget gates open."""
        weights: dict[str, Any] = {}
        matrix = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) * columns**-0.5
        *layer_keys, output_key = jax.random.split(key, self.layers + 1)
        # A forget gate near sigmoid(1) = .73 lets derivatives pass through early steps. Its row is
        # 1 by the order in which `_apply` splits the gates.
        bias = jnp.zeros((GATES, self.units)).at[1].set(1.0).ravel()
        for index, layer_key in enumerate(layer_keys):
            columns = (self.units if index else INPUTS) + self.units
            weight = matrix(layer_key, GATES * self.units, columns)
            weights[f"layer {index}"] = {"weight": weight, "bias": bias}
        weights["output"] = {"weight": matrix(output_key, 1, self.units), "bias": jnp.zeros(1)}
        return weights

    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation; it does not use the parameters."""

        def init(params: Any) -> Any:
            check_params(params)
            shape = lambda leaf: (self.layers, self.units, jnp.size(leaf))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(shape(leaf), jnp.result_type(leaf)), params)
            return LSTMState(zeros, zeros)

        def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
            del params
            check_params(updates)
            leaves, structure = jax.tree.flatten(updates)
            results = [
                self._apply(cast(weights, grad), jnp.ravel(grad), hidden, cell)
                for grad, hidden, cell in zip(
                    leaves,
                    structure.flatten_up_to(state.hidden),
                    structure.flatten_up_to(state.cell),
                    strict=True,
                )
            ]
            steps, hidden, cells = (list(part) for part in zip(*results, strict=True))
            steps = [step.reshape(grad.shape) for step, grad in zip(steps, leaves, strict=True)]
            state = LSTMState(structure.unflatten(hidden), structure.unflatten(cells))
            return structure.unflatten(steps), state

        return optax.GradientTransformation(init, update)

    def _apply(
        self,
        weights: PyTree,
        grad: Float[Array, " entries"],
        hidden: Float[Array, "layers units entries"],
        cell: Float[Array, "layers units entries"],
    ) -> tuple[Array, Array, Array]:
        """Return the step of every entry, and the next state."""
        rows, outputs, cells = logarithm_and_sign(grad, self.precision), [], []
        for index in range(self.layers):
            layer = weights[f"layer {index}"]
            # One product for all four gates of all parameters.
            gates = layer["weight"] @ jnp.concatenate([rows, hidden[index]])
            gates = gates + layer["bias"][:, None]
            input_gate, forget_gate, candidate, output_gate = jnp.split(gates, GATES)
            kept = jax.nn.sigmoid(forget_gate) * cell[index]
            new_cell = kept + jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
            rows = jax.nn.sigmoid(output_gate) * jnp.tanh(new_cell)
            outputs.append(rows)
            cells.append(new_cell)
        last = weights["output"]
        step = self.output_scale * (last["weight"] @ rows + last["bias"][:, None])[0]
        return step, jnp.stack(outputs), jnp.stack(cells)


def logarithm_and_sign(
    grad: Float[Array, " entries"], precision: float
) -> Float[Array, "2 entries"]:
    """Return two network inputs that represent a gradient of any magnitude, p = `precision`.

    (log|g| / p, sign g) if |g| >= exp(-p), else (-1, exp(p) g): continuous, and about 1 in
    magnitude from exp(-p) up.

    Reference:
        Andrychowicz et al. (2016), Appendix A.
    """
    large = jnp.abs(grad) >= jnp.exp(-precision)
    # 1 where the logarithm is not used: the derivative of log 0 would turn into NaN.
    size = jnp.where(large, jnp.abs(grad), 1.0)
    first = jnp.where(large, jnp.log(size) / precision, -1.0)
    second = jnp.where(large, jnp.sign(grad), jnp.exp(precision) * grad)
    return jnp.stack([first, second])
