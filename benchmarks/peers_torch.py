"""The cases in PyTorch: plain autograd, higher, torchopt, and recomputation as in hypertorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import problems
import torch
from torch import Tensor
from torch.nn import functional

Params = Sequence[Tensor]


@dataclass(frozen=True)
class Case:
    """What the methods need to know of a case.

    Attributes:
        params: initial parameters.
        outer: the hyperparameters.
        training: `training(params, outer, t) -> scalar`, the inner loss at step `t`.
        validation: `validation(params) -> scalar`, the outer loss.
        horizon: inner steps.
        step_size: of gradient descent.
    """

    params: tuple[Tensor, ...]
    outer: Tensor
    training: Callable[[Params, Tensor, int], Tensor]
    validation: Callable[[Params], Tensor]
    horizon: int
    step_size: float

    def start(self) -> list[Tensor]:
        """Return fresh copies of the initial parameters."""
        return [leaf.clone().requires_grad_() for leaf in self.params]

    def hyperparameters(self) -> Tensor:
        """Return a fresh copy of the hyperparameters."""
        return self.outer.clone().requires_grad_()

    def descend(self, params: Params, gradients: Params) -> list[Tensor]:
        """Return the parameters after one step."""
        return [
            leaf - self.step_size * gradient
            for leaf, gradient in zip(params, gradients, strict=True)
        ]


class TorchMethod:
    """A function of a case that returns its hypergradient."""

    def __init__(self, function: Callable[[Case], Tensor], case: Case):
        self._function = function
        self._case = case

    def set_threads(self, threads: int) -> None:
        """Set how many threads one operation may use."""
        torch.set_num_threads(threads)

    def call(self) -> np.ndarray:
        """Compute the hypergradient once."""
        return self._function(self._case).numpy()

    def alone(self) -> tuple[Callable[[], object], None]:
        """Load what PyTorch loads on first use, by a run of few steps; return the full run."""
        self._function(replace(self._case, horizon=6))
        return self.call, None


def _rows(data: problems.Hypercleaning) -> Callable:
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels).long()
    return lambda weight: functional.cross_entropy(features @ weight.T, labels, reduction="none")


def _transposed(data: problems.Hypercleaning) -> Callable:
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels).long()
    return lambda weight: functional.cross_entropy(features @ weight, labels, reduction="none")


def _own(data: problems.Hypercleaning) -> Callable:
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels).long()
    targets = functional.one_hot(labels, 10).float()

    def losses(weight: Tensor) -> Tensor:
        scores = features @ weight.T
        return torch.logsumexp(scores, 1) - (scores * targets).sum(1)

    return losses


def _columns(data: problems.Hypercleaning) -> Callable:
    features = torch.from_numpy(data.features).T.contiguous()
    targets = functional.one_hot(torch.from_numpy(data.labels).long(), 10).float().T.contiguous()

    def losses(weight: Tensor) -> Tensor:
        scores = weight @ features
        return torch.logsumexp(scores, 0) - (scores * targets).sum(0)

    return losses


LOSSES = {"rows": _rows, "transposed": _transposed, "own": _own, "columns": _columns}


def hypercleaning(loss: str = "columns") -> Case:
    """Weights of training examples.

    Args:
        loss: how the loss of every training example is computed. `rows` and `transposed` use
            PyTorch's cross-entropy with W stored as (classes, examples) or the other way round;
            `own` writes the cross-entropy out, as does `columns`, which also stores the features
            transposed.
    """
    data = problems.hypercleaning()
    losses = LOSSES[loss](data)
    held_out = torch.from_numpy(data.validation_features)
    labels = torch.from_numpy(data.validation_labels).long()
    shape = (10, held_out.shape[1])

    def training(params: Params, outer: Tensor, t: int) -> Tensor:
        (weight,) = params
        penalty = data.regularization * (weight * weight).sum()
        return (torch.sigmoid(outer) * losses(weight)).mean() + penalty

    def validation(params: Params) -> Tensor:
        weight = params[0].T if loss == "transposed" else params[0]
        return functional.cross_entropy(held_out @ weight.T, labels)

    start = torch.zeros(shape[::-1] if loss == "transposed" else shape)
    outer = torch.from_numpy(data.outer)
    return Case((start,), outer, training, validation, data.horizon, data.step_size)


def mlp() -> Case:
    """Weight decays of a small network."""
    data = problems.mlp()
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels).long()
    held_out = torch.from_numpy(data.validation_features)
    held_out_labels = torch.from_numpy(data.validation_labels).long()

    def loss(params: Params, inputs: Tensor, labels: Tensor) -> Tensor:
        for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
            inputs = torch.tanh(functional.linear(inputs, weight, bias))
        return functional.cross_entropy(functional.linear(inputs, *params[-2:]), labels)

    def training(params: Params, outer: Tensor, t: int) -> Tensor:
        decay = sum(
            decay.exp() * (leaf * leaf).sum() for decay, leaf in zip(outer, params, strict=True)
        )
        return loss(params, features[t], labels[t]) + decay

    return Case(
        tuple(map(torch.from_numpy, data.params)),
        torch.from_numpy(data.outer),
        training,
        lambda params: loss(params, held_out, held_out_labels),
        data.horizon,
        data.step_size,
    )


CASES = {"hypercleaning": hypercleaning, "mlp": mlp}


def plain(data: object, case: str, window: int | None = None, **options: str) -> TorchMethod:
    """Unroll with `create_graph`, the last `window` steps or all of them."""
    del data

    def function(case: Case) -> Tensor:
        outer, params = case.hyperparameters(), case.start()
        detached = 0 if window is None else case.horizon - window
        for t in range(detached):
            gradients = torch.autograd.grad(case.training(params, case.outer, t), params)
            with torch.no_grad():
                params = case.descend(params, gradients)
            params = [leaf.requires_grad_() for leaf in params]
        for t in range(detached, case.horizon):
            loss = case.training(params, outer, t)
            params = case.descend(params, torch.autograd.grad(loss, params, create_graph=True))
        return torch.autograd.grad(case.validation(params), outer)[0]

    return TorchMethod(function, CASES[case](**options))


def recompute(data: object, case: str) -> TorchMethod:
    """Store the states alone and recompute each step on the way back, as hypertorch does."""
    del data

    def function(case: Case) -> Tensor:
        outer, states = case.hyperparameters(), [case.start()]
        for t in range(case.horizon):
            gradients = torch.autograd.grad(case.training(states[-1], case.outer, t), states[-1])
            with torch.no_grad():
                after = case.descend(states[-1], gradients)
            states.append([leaf.requires_grad_() for leaf in after])
        adjoint = torch.autograd.grad(case.validation(states.pop()), after)
        total = torch.zeros_like(case.outer)
        for t in reversed(range(case.horizon)):
            params = states.pop()
            gradients = torch.autograd.grad(
                case.training(params, outer, t), params, create_graph=True
            )
            after = case.descend(params, gradients)
            *adjoint, change = torch.autograd.grad(after, [*params, outer], adjoint)
            total += change
        return total

    return TorchMethod(function, CASES[case]())


class _Model(torch.nn.Module):
    """The parameters of a case as a module, for libraries that ask for one."""

    def __init__(self, params: Params):
        super().__init__()
        self._names = [f"leaf_{index}" for index in range(len(params))]
        for name, leaf in zip(self._names, params, strict=True):
            self.register_parameter(name, torch.nn.Parameter(leaf.clone()))

    def forward(self, function: Callable, *arguments: object) -> Tensor:
        """Return `function(params, *arguments)`."""
        return function([getattr(self, name) for name in self._names], *arguments)


def higher(data: object, case: str) -> TorchMethod:
    """`higher.innerloop_ctx` around an SGD optimizer."""
    del data
    import higher

    def function(case: Case) -> Tensor:
        outer, model = case.hyperparameters(), _Model(case.params)
        optimizer = torch.optim.SGD(model.parameters(), lr=case.step_size)
        with higher.innerloop_ctx(model, optimizer) as (functional_model, descent):
            for t in range(case.horizon):
                descent.step(functional_model(case.training, outer, t))
            return torch.autograd.grad(functional_model(case.validation), outer)[0]

    return TorchMethod(function, CASES[case]())


def torchopt(data: object, case: str) -> TorchMethod:
    """`torchopt.MetaSGD`."""
    del data
    import torchopt

    def function(case: Case) -> Tensor:
        outer, model = case.hyperparameters(), _Model(case.params)
        optimizer = torchopt.MetaSGD(model, lr=case.step_size)
        for t in range(case.horizon):
            optimizer.step(model(case.training, outer, t))
        return torch.autograd.grad(model(case.validation), outer)[0]

    return TorchMethod(function, CASES[case]())
