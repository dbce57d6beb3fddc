"""A GPT-2 on AdamW, one weight per training example: `python benchmarks/gpt2.py [STEPS...]`.

The model is that of `transformers` (2 layers, width 128, 4 heads, 64 tokens, 512 words, eager
attention, no dropout, input and output embeddings apart, since bergson trains shared ones as two),
with the same random weights for every method; batches of 8 examples, each seen once; the objective
is the mean loss of 8 further examples. STEPS are 8 and 32.

Methods: metastep on the model in JAX, plainly, in mixed mode, and with little memory (two stored
states, losses of two examples at a time); metastep on the PyTorch module through `from_torch`;
`jax.value_and_grad` of the same loop; bergson's `Trainer` (train and backward; it saves the state
of every step, here to a disk in memory, which does not count as memory of the process); PyTorch
with `create_graph`.

Every method runs in a process of its own; they take turns. Shown are the seconds until the first
answer, medians of wall and CPU seconds of the calls after it, the growth of the peak of resident
memory in the first call (of JAX, without compilation), and the relative distance of the weights'
gradient to that of "by hand" and its correlation with it. A method whose library is missing is left
out. On a busy machine set OMP_NUM_THREADS=1: threads of PyTorch that wait for each other burn time.
"""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
from mixed_mode import by_hand, clocks, elapsed
from rich.console import Console
from rich.table import Table
from worker import forget_peak, peak

WIDTH, LAYERS, HEADS, TOKENS, WORDS, BATCH = 128, 2, 4, 64, 512, 8
RATE, DECAY, EPS_ROOT = 1e-3, 1e-2, 1e-8
REFERENCE = "by hand"
LEAN = "Reverse(Binomial(2)), 2 at a time"


def text(steps: int) -> np.ndarray:
    """Return the training examples, then the 8 that judge."""
    rng = np.random.default_rng(0)
    return rng.integers(0, WORDS, (BATCH * (steps + 1), TOKENS))


def model() -> Any:
    """Return the model of transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=TOKENS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
        use_cache=False,
        tie_word_embeddings=False,
        **no_dropout,
    )
    return transformers.GPT2LMHeadModel(config)


def losses_in_jax(params: dict, tokens: Any) -> Any:
    """Return the mean loss of each example; `params` are named as in the PyTorch module."""
    import jax
    import jax.numpy as jnp
    import optax

    weight = lambda name: params[f"transformer.{name}.weight"]
    bias = lambda name: params[f"transformer.{name}.bias"]
    dense = lambda name, x: x @ weight(name) + bias(name)
    normalized = lambda name, x: jax.nn.standardize(x, epsilon=1e-5) * weight(name) + bias(name)

    def attention(name: str, x: Any) -> Any:
        split = lambda z: z.reshape(*z.shape[:2], HEADS, -1).swapaxes(1, 2)
        query, key, value = map(split, jnp.split(dense(f"{name}.c_attn", x), 3, axis=-1))
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS)
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ value
        return dense(f"{name}.c_proj", mixed.swapaxes(1, 2).reshape(x.shape))

    x = weight("wte")[tokens[:, :-1]] + weight("wpe")[: TOKENS - 1]
    for layer in range(LAYERS):
        x = x + attention(f"h.{layer}.attn", normalized(f"h.{layer}.ln_1", x))
        hidden = jax.nn.gelu(dense(f"h.{layer}.mlp.c_fc", normalized(f"h.{layer}.ln_2", x)))
        x = x + dense(f"h.{layer}.mlp.c_proj", hidden)
    scores = normalized("ln_f", x) @ params["lm_head.weight"].T
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.mean(cross_entropy(scores, tokens[:, 1:]), axis=-1)


def losses_two_at_a_time(params: dict, tokens: Any) -> Any:
    """Return the mean loss of each example, with the activations of two of them in memory."""
    import jax

    one = jax.checkpoint(lambda row: losses_in_jax(params, row[None])[0])
    return jax.lax.map(one, tokens, batch_size=2)


def in_jax(method: str, steps: int) -> Callable[[], np.ndarray]:
    """Return a compiled call of metastep or of plain JAX."""
    import jax
    import jax.numpy as jnp
    import optax

    import metastep as ms
    from metastep.interop import from_torch

    tokens = jnp.asarray(text(steps), jnp.int32)
    module = model()
    if method.startswith("from_torch"):
        params, buffers, apply = from_torch(module)

        def losses(params: dict, tokens: Any) -> Any:
            scores = apply(params, buffers, tokens[:, :-1])[0].logits
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels
            return jnp.mean(cross_entropy(scores, tokens[:, 1:]), axis=-1)

    else:
        named = dict(module.named_parameters())
        params = {name: jnp.asarray(p.detach().numpy()) for name, p in named.items()}
        losses = losses_two_at_a_time if method == LEAN else losses_in_jax
    problem = ms.TrainingProblem(
        loss=lambda params, weights, rows: jnp.mean(weights[rows] * losses(params, tokens[rows])),
        objective=lambda params, weights: jnp.mean(losses(params, tokens[-BATCH:])),
        init_params=params,
        optimizer=optax.adamw(RATE, eps_root=EPS_ROOT, weight_decay=DECAY),
        horizon=steps,
        batch=lambda t, key: BATCH * t + jnp.arange(BATCH),
    )
    estimators = {
        "Reverse(mixed=False)": ms.Reverse(mixed=False),
        "Reverse(mixed=True)": ms.Reverse(mixed=True),
        "Reverse('sqrt', mixed=True)": ms.Reverse("sqrt", mixed=True),
        LEAN: ms.Reverse(ms.Binomial(2), mixed=True),
    }
    estimator = estimators.get(method, ms.Reverse())

    def run(weights: Any, key: Any) -> Any:
        if method == "by hand":
            return by_hand(problem, weights, key)[1]
        return estimator.estimate(problem, weights, None, key)[0].grad

    given = jnp.ones(BATCH * steps), jax.random.key(0)
    program = jax.jit(run, compiler_options=ms.compiler_options()).lower(*given).compile()
    return lambda: np.asarray(program(*given))


def in_torch(method: str, steps: int) -> Callable[[], np.ndarray]:
    """Return the loop that keeps its whole graph."""
    import torch

    module = model()
    tokens = torch.tensor(text(steps))
    start = {name: p.detach() for name, p in module.named_parameters()}

    def losses(params: dict, tokens: Any) -> Any:
        scores = torch.func.functional_call(module, params, (tokens[:, :-1],)).logits
        flat = torch.nn.functional.cross_entropy(
            scores.reshape(-1, WORDS), tokens[:, 1:].reshape(-1), reduction="none"
        )
        return flat.reshape(len(tokens), -1).mean(1)

    def run() -> np.ndarray:
        weights = torch.ones(BATCH * steps, requires_grad=True)
        params = {name: p.clone().requires_grad_() for name, p in start.items()}
        mean = {name: torch.zeros_like(p) for name, p in start.items()}
        square = {name: torch.zeros_like(p) for name, p in start.items()}
        for t in range(steps):
            rows = slice(BATCH * t, BATCH * (t + 1))
            loss = (weights[rows] * losses(params, tokens[rows])).mean()
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            for name, slope in zip(params, slopes, strict=True):
                mean[name] = 0.9 * mean[name] + 0.1 * slope
                square[name] = 0.999 * square[name] + 0.001 * slope**2
                root = (square[name] / (1 - 0.999 ** (t + 1)) + EPS_ROOT).sqrt()
                step = mean[name] / (1 - 0.9 ** (t + 1)) / (root + 1e-8) + DECAY * params[name]
                params[name] = params[name] - RATE * step
        return torch.autograd.grad(losses(params, tokens[-BATCH:]).mean(), weights)[0].numpy()

    return run


def in_bergson(method: str, steps: int) -> Callable[[], np.ndarray]:
    """Return bergson's training and backward pass."""
    import datasets
    import torch
    import torchopt
    from bergson.magic import BackwardState, DataStream, Trainer
    from bergson.utils import weighted_causal_lm_ce

    tokens = text(steps)
    module = model()
    module.loss_function = partial(weighted_causal_lm_ce, reduction="mean")
    stream = DataStream(datasets.Dataset.from_dict({"input_ids": tokens[:-BATCH]}), BATCH)
    judge = torch.tensor(tokens[-BATCH:])
    optimizer = torchopt.adamw(RATE, eps_root=EPS_ROOT, weight_decay=DECAY)
    trainer, start = Trainer.initialize(module, optimizer)
    start = start.to("cpu").detach_()

    def run() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            return trained_and_back()

    def trained_and_back() -> np.ndarray:
        stream.weights = torch.nn.Parameter(torch.ones(BATCH * steps))
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            state = trainer.train(start.to("cpu"), stream, save_dir=folder, save_mode="all")
            with state.activate(module) as params:
                for p in params.values():
                    p.requires_grad_()
                loss = module(input_ids=judge, labels=judge).loss
                slopes = torch.autograd.grad(loss, list(params.values()))
            begin = BackwardState(
                dict(zip(state.params, slopes, strict=True)),
                [torch.zeros_like(x) for x in state.differentiable_tensors()[len(slopes) :]],
                torch.zeros_like(stream.weights),
            )
            end = trainer.backward(folder, stream, begin, state.detach_(), save_mode="all")
        return end.weight_grads.detach().numpy()

    return run


# What prepares a call, and the libraries that it needs.
METHODS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "by hand": (in_jax, ()),
    "Reverse(mixed=False)": (in_jax, ()),
    "Reverse(mixed=True)": (in_jax, ()),
    "Reverse()": (in_jax, ()),
    "Reverse('sqrt', mixed=True)": (in_jax, ()),
    LEAN: (in_jax, ()),
    "from_torch, Reverse()": (in_jax, ("torchax",)),
    "bergson": (in_bergson, ("bergson",)),
    "create_graph": (in_torch, ()),
}


def serve(connection: Connection, method: str, steps: int) -> None:
    """Send what the first call took and gave, then the time of a call whenever one is wanted."""
    warnings.simplefilter("ignore")
    begin = clocks()
    call = METHODS[method][0](method, steps)
    before = forget_peak()
    grad = call()
    connection.send((elapsed(begin), peak() - before, grad))
    while connection.recv():
        begin = clocks()
        call()
        connection.send(elapsed(begin))


def measure(steps: int, rounds: int) -> Table:
    """Measure all methods for one number of steps and return the table."""
    context = multiprocessing.get_context("spawn")
    workers, first = {}, {}
    for method, (_, needs) in METHODS.items():
        if any(importlib.util.find_spec(name) is None for name in needs):
            continue
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, method, steps), daemon=True)
        process.start()
        theirs.close()  # or a process that died would never be noticed
        try:
            first[method] = ours.recv()
        except EOFError:
            print(f"left out: {method} (it failed, see above)")
            continue
        workers[method] = (process, ours)
    calls: dict[str, list[tuple[float, float]]] = {method: [] for method in workers}
    for number in range(rounds):
        for method in list(workers)[:: -1 if number % 2 else 1]:
            workers[method][1].send(True)
            calls[method].append(workers[method][1].recv())
    for process, connection in workers.values():
        connection.send(False)
        process.join()
    numbers = ("first: wall, CPU", "wall", "CPU", "growth MiB", "distance", "correlation")
    table = Table("method", *numbers)
    expected = first[REFERENCE][2]
    for method, ((wall, cpu), growth, grad) in first.items():
        table.add_row(
            method,
            f"{wall:.1f}, {cpu:.1f}",
            f"{median(wall for wall, _ in calls[method]):.3f}",
            f"{median(cpu for _, cpu in calls[method]):.3f}",
            f"{growth / 2**20:.0f}",
            f"{np.linalg.norm(grad - expected) / np.linalg.norm(expected):.0e}",
            f"{np.corrcoef(np.ravel(grad), np.ravel(expected))[0, 1]:.7f}",
        )
    table.title = f"GPT-2, {steps} steps"
    return table


def main() -> None:
    """Print one table for each number of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", type=int, default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each method")
    options = parser.parse_args()
    for steps in options.steps:
        Console(width=110).print(measure(steps, options.rounds))


if __name__ == "__main__":
    main()
