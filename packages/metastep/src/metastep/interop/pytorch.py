"""A PyTorch module as a pure function of its parameters, its buffers and a random key."""

import functools
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array

from metastep.trees import as_arrays
from metastep.types import RandomKey

if TYPE_CHECKING:
    import torch

Tensors = dict[str, Array]

MISSING = 'from_torch needs {}: pip install "metastep[torch]".'

# torchax 0.0.13 refers to operators for tensors with named axes, which PyTorch 2.13 has removed.
NAMED_AXES = {
    "all": ("dimname", "dimname_out"),
    "index_add": ("dimname",),
    "index_copy": ("dimname",),
    "index_copy_": ("dimname",),
    "index_fill": ("Dimname_Scalar", "Dimname_Tensor"),
    "index_fill_": ("Dimname_Scalar", "Dimname_Tensor"),
    "norm": ("names_ScalarOpt_dim", "names_ScalarOpt_dim_dtype", "names_dtype_out", "names_out"),
    "prod": ("dim_Dimname",),
    "std": ("names_dim", "names_out", "correction_names", "correction_names_out"),
    "std_mean": ("names_dim", "correction_names"),
    "unbind": ("Dimname",),
}


def from_torch(
    module: "torch.nn.Module",
) -> tuple[Tensors, Tensors, Callable[..., tuple[Any, Tensors]]]:
    """Return the parameters and buffers of a PyTorch module, and its forward pass in JAX.

    The module's own operations run on JAX arrays (through torchax), so the result can be compiled,
    batched and differentiated in every mode and order. Call the module's `train()` or `eval()`
    before: the forward pass uses the mode at the time of the call.

    Example:
        >>> import jax.numpy as jnp, torch  # doctest: +SKIP
        >>> params, buffers, apply = from_torch(torch.nn.Linear(3, 1))  # doctest: +SKIP
        >>> predictions, buffers = apply(params, buffers, jnp.ones((5, 3)))  # doctest: +SKIP

    Args:
        module: any module. Parameters that require a gradient become parameters; those that share
            their memory become one entry. Buffers and frozen parameters become buffers.

    Returns:
        `params`, `buffers`: dictionaries of arrays by name, copies. `apply(params, buffers,
        *arguments, key=None, **keywords) -> (output, buffers)`: arguments are arrays, and the
        returned buffers are those after the call (running statistics in training). `key` is for
        dropout and other random numbers, and needed if there are any; the same key gives the same
        numbers. Outputs of Hugging Face models keep their names; a compiled function returns
        `output.logits`.

    Raises:
        ImportError: if torch or torchax is missing (`pip install "metastep[torch]"`).
        ValueError: for a module without a floating-point parameter that requires a gradient, or
            with the running statistics of an instance normalization; on a call, for a module that
            stores a computed value in an attribute, changes a parameter, or draws random numbers
            without a key.
    """
    environment = _torchax()[0]
    import torch

    _check_module(module)
    # These are copies: shared memory would change under JAX when the module is trained in PyTorch.
    params = environment.t2j_copy(
        {name: p for name, p in module.named_parameters() if p.requires_grad}
    )
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    buffers = environment.t2j_copy(frozen | dict(module.named_buffers()))

    def apply(
        params: Tensors, buffers: Tensors, *arguments: Any, key: RandomKey | None = None, **keywords
    ) -> tuple[Any, Tensors]:
        given = as_arrays((params, buffers, arguments, keywords))
        moved = environment.j2t_iso(given)
        weights, state, arguments, keywords = moved
        before = _attributes(module)
        # The environment asks for a key, also where nothing in the module is random.
        seed = jax.random.key(0) if key is None else key
        with environment, environment.override_property(prng=seed):
            output = torch.func.functional_call(module, weights | state, arguments, keywords)
            # Every draw replaces the key of the environment.
            drawn = environment.prng_key is not seed
        _check_functional(module, before)
        if drawn and key is None:
            raise ValueError(
                "key is None, and module draws random numbers (dropout, for instance): every call "
                "would draw the same ones. Pass key=..., another one in each step, or call "
                "module.eval() before."
            )
        for name, array in environment.t2j_iso(weights).items():
            # The conversion copies nothing: another array under a name is an operation in place.
            if array is not given[0][name]:
                raise ValueError(
                    f"module changes its parameter {name} in place, which a step of training by an "
                    "optimizer cannot follow. Make it a buffer, or compute the change in forward."
                )
        return environment.t2j_iso(output), environment.t2j_iso(state)

    return params, buffers, apply


@functools.cache
def _torchax() -> tuple[Any, Any]:
    """Import torchax; its tables refer to names that newer versions of PyTorch have removed.

    The names exist as long as the library that defines them, so that is returned, too.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(MISSING.format("torch")) from error
    if importlib.util.find_spec("torchax") is None:
        raise ImportError(MISSING.format("torchax"))

    library = torch.library.Library("aten", "FRAGMENT")
    for operator, overloads in NAMED_AXES.items():
        for overload in overloads:
            if overload not in getattr(torch.ops.aten, operator).overloads():
                library.define(f"{operator}.{overload}(Tensor self) -> Tensor")
    # This follows the definitions, since torchax looks the names up while it is imported.
    environment = importlib.import_module("torchax").default_env()
    environment.override_op_definition(torch.ops.aten.native_batch_norm.default, _batch_norm)
    return environment, library


def _batch_norm(
    inputs: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_variance: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, Any, Any]:
    """Normalize as PyTorch does; torchax's own does not update the running statistics."""
    import torch

    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    mean, variance = running_mean, running_variance
    if training:
        mean = torch.mean(inputs, axes)
        variance = torch.var(inputs, axes, correction=0)
        if running_mean is not None:
            count = inputs.numel() // inputs.shape[1]
            # PyTorch divides by n - 1 for the running variance only.
            unbiased = variance * (count / max(count - 1, 1))
            running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
            running_variance.copy_((1 - momentum) * running_variance + momentum * unbiased)
    along = lambda x: x.reshape([1, -1] + [1] * (inputs.ndim - 2))
    inverse = torch.rsqrt(variance + eps)
    output = (inputs - along(mean)) * along(inverse)
    if weight is not None:
        output = output * along(weight)
    if bias is not None:
        output = output + along(bias)
    return output, mean, inverse


def _check_module(module: "torch.nn.Module") -> None:
    """Refuse modules that cannot be trained or whose statistics torchax would not update."""
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(
            f"module is a {type(module).__name__} without a parameter that requires a gradient: "
            "nothing could be trained. Call module.requires_grad_(True), or build it with weights "
            "in floating point."
        )
    for name, part in module.named_modules():
        if type(part).__name__.startswith("InstanceNorm") and part.track_running_stats:
            raise ValueError(
                f"module.{name} is an instance normalization with running statistics, which "
                "torchax does not update: give track_running_stats=False."
            )


def _attributes(module: "torch.nn.Module") -> dict[tuple[str, str], Any]:
    """Return the attributes of a module and of its parts that are not parameters or buffers."""
    return {
        (part, name): value
        for part, child in module.named_modules()
        for name, value in vars(child).items()
        # The private dictionaries hold what `functional_call` exchanges during the call.
        if not name.startswith("_") or not isinstance(value, dict)
    }


def _check_functional(module: "torch.nn.Module", before: dict[tuple[str, str], Any]) -> None:
    """Refuse a module whose forward pass sets an attribute; it would be set during tracing only."""
    for (part, name), value in _attributes(module).items():
        # Attributes are compared by identity, since one may be a tracer.
        if (part, name) not in before or value is not before[part, name]:
            where = f"{part}.{name}" if part else name
            raise ValueError(
                f"module sets its attribute {where} in the forward pass; a compiled step does so "
                "once, and a derivative cannot pass through it. Keep it in a buffer "
                "(register_buffer) that is changed in place, or return it."
            )
