"""Which methods are measured in which case."""

import importlib.util
import os
from dataclasses import dataclass, field

ALL_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclass(frozen=True)
class Method:
    """One way to compute the hypergradient of a case.

    Attributes:
        name: the row of the table.
        module: the file of this folder that holds it.
        builder: a function of that module, `builder(data, **options)`.
        package: what has to be importable for it.
        options: keyword arguments of `builder`.
        exact: whether its result has to agree with the other exact ones.
        peer: whether it counts as another library.
        threads: the thread counts it is measured with; None leaves the choice to the library.
        versus: the method that it is compared with.
    """

    name: str
    module: str
    builder: str
    package: str
    options: dict = field(default_factory=dict)
    exact: bool = True
    peer: bool = False
    threads: tuple[int | None, ...] = (None,)
    versus: str = "metastep Reverse"

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return importlib.util.find_spec(self.package) is None


OURS = "metastep Reverse"
OURS_SQRT = "metastep Reverse, sqrt checkpoints"
OURS_TRUNCATED = "metastep TruncatedReverse, K = 5"


def _ours(case: str) -> tuple[Method, ...]:
    def method(name: str, exact: bool = True, **options) -> Method:
        return Method(name, "ours", case, "metastep", options, exact)

    return (
        method(OURS, estimator="reverse"),
        method(OURS_SQRT, estimator="sqrt"),
        method(OURS_TRUNCATED, exact=False, estimator="truncated"),
    )


def _torch(name: str, builder: str, package: str, exact: bool = True, **options) -> Method:
    threads = tuple(sorted({1, ALL_CORES}))
    return Method(name, "peers_torch", builder, package, options, exact, True, threads)


def _jax(name: str, builder: str, package: str = "jax", peer: bool = False, **options) -> Method:
    return Method(name, "peers_jaxopt", builder, package, options, peer=peer)


def _torch_libraries(case: str) -> tuple[Method, ...]:
    return (
        _torch("higher", "higher", "higher", case=case),
        _torch("torchopt MetaSGD", "torchopt", "torchopt", case=case),
        _torch("hypertorch's way (recomputes)", "recompute", "torch", case=case),
    )


HYPERCLEANING = (
    *_ours("hypercleaning"),
    _jax("JAX by hand", "by_hand"),
    _jax("JAX by hand, loss of metastep", "by_hand", package="metastep", fast=True),
    _jax("jaxopt GradientDescent, unrolled", "jaxopt", package="jaxopt", peer=True),
    _torch("torch", "plain", "torch", case="hypercleaning", loss="rows"),
    _torch("torch, W transposed", "plain", "torch", case="hypercleaning", loss="transposed"),
    _torch("torch, own cross-entropy", "plain", "torch", case="hypercleaning", loss="own"),
    _torch("torch, scores by columns", "plain", "torch", case="hypercleaning", loss="columns"),
    _torch(
        "torch, scores by columns, K = 5",
        "plain",
        "torch",
        exact=False,
        case="hypercleaning",
        loss="columns",
        window=5,
    ),
    *_torch_libraries("hypercleaning"),
)

MLP = (
    *_ours("mlp"),
    _torch("torch", "plain", "torch", case="mlp"),
    _torch("torch, K = 5", "plain", "torch", exact=False, case="mlp", window=5),
    *_torch_libraries("mlp"),
)

META_BATCH = tuple(
    Method(
        f"{tasks}, {order}",
        "meta_batch",
        tasks,
        "metastep",
        {"order": order},
        versus=f"{tasks}, vmap",
    )
    for tasks in ("quadratics", "networks")
    for order in ("vmap", "map")
)

CASES = {"hypercleaning": HYPERCLEANING, "mlp": MLP, "meta-batch": META_BATCH}
PRODUCT_SIZE = 2048
REFERENCE = Method(
    "reference product", "meta_batch", "reference_product", "jax", {"size": PRODUCT_SIZE}
)
