"""Causal language models of the Hugging Face library as a source of hidden states.

Nothing is downloaded: a model is a local directory, or is in the library's cache.
Needs the extra `metastep[language]`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from metastep.checks import require_count

LONGEST_CONTEXT = 2048  # that of OPT; attention over longer windows needs much memory
CAUSAL = 1e-5  # relative change of a state by later tokens; only rounding in a causal model
LINEAR = 1e-3  # relative difference of logits and inner products; only rounding if they are equal


@dataclass(frozen=True)
class CausalModel:
    """A causal language model with access to the input of its last layer.

    Attributes:
        source: the directory or name of the model.
        unembedding: the dictionary, one row for each word, shape (vocabulary, hidden), float32.
        context: the largest number of tokens of an input: the model's own, at most 2048.
        parameters: the number of parameters, tied ones counted once.
        network: the torch module.
    """

    source: str
    unembedding: np.ndarray
    context: int
    parameters: int
    network: Any

    def tokens(self, text: str) -> np.ndarray:
        """Encode a text with the model's own tokenizer, without special tokens.

        Returns positions in the vocabulary, shape (tokens,); a ValueError without a tokenizer.
        """
        _, transformers = _libraries()
        with _quiet(transformers):
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    self.source, local_files_only=True, trust_remote_code=False
                )
            # transformers raises errors of many kinds for files that it cannot read.
            except Exception as error:
                raise ValueError(f"{self.source} holds no tokenizer: {_reason(error)}") from error
        if len(tokenizer) < 2:  # without a tokenizer the library creates an empty one
            raise ValueError(f"{self.source} holds no tokenizer")
        # Quiet about texts that are longer than the model's context, as they are read in windows.
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        return np.array(encoded["input_ids"], np.int64)

    def hidden_states(
        self, tokens: Sequence[int] | np.ndarray, context: int | None = None
    ) -> Iterator[np.ndarray]:
        """Read a text in windows and yield the states that the unembedding multiplies.

        The states times the unembedding are the model's logits, as `load_causal_model` has checked.
        The state of a token predicts the token after it.

        Args:
            tokens: positions in the vocabulary, shape (tokens,).
            context: tokens in a window; None for the model's own. Each window is read without the
                preceding ones; the last one may be shorter.

        Yields:
            For each window float32 of shape (tokens in it, hidden).

        Raises:
            ValueError: for tokens outside the vocabulary, or a longer context than the model's.
        """
        torch, _ = _libraries()
        ids = np.asarray(tokens)
        vocabulary, width = len(self.unembedding), self.context if context is None else context
        if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"tokens has shape {ids.shape}, {ids.dtype}; allowed: some integers")
        if ids.min() < 0 or ids.max() >= vocabulary:
            span = f"{ids.min()} to {ids.max()}"
            raise ValueError(f"tokens are {span}; allowed are integers from 0 to {vocabulary - 1}")
        require_count("context", width, most=self.context)
        for start in range(0, len(ids), width):
            window = torch.from_numpy(ids[start : start + width].astype(np.int64))
            # The logits are not used, so the last layer gets a single position.
            yield _forward(torch, self.network, window[None], positions=1)[0][0]


def load_causal_model(source: str | PathLike[str]) -> CausalModel:
    """Load a causal language model, such as GPT-2 or OPT, in float32 on the CPU.

    `source` is a local directory, or the name of a model that is in the cache.

    Raises:
        ImportError: without the extra `language`.
        ValueError: if it is not a causal language model: no model at all, missing weights, an
            encoder (whose states depend on later tokens), or a last layer whose logits are not
            inner products with a dictionary (a bias, a cap).
    """
    torch, transformers = _libraries()
    name = str(source)
    refused = f"source is {name!r}; allowed is a causal language model: "
    with _quiet(transformers):
        try:
            network, loading = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                local_files_only=True,
                trust_remote_code=False,
                # Whatever the file holds: half precision would not pass the checks below.
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:
            nowhere = "there is no such directory, nor a model of this name in the cache"
            reason = _reason(error) if Path(name).is_dir() else nowhere
            raise ValueError(refused + reason) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"{refused}the weights of {missing[0]} are missing here")
    # Drop-out would make the states random.
    network.eval()
    head = network.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise ValueError(f"{refused}this one has no linear last layer")
    # A module yields tied weights once.
    parameters = sum(weights.numel() for weights in network.parameters())
    # Two texts that differ in their last word only: the first states must agree.
    probe = torch.tensor([[0, 0], [0, 1]])
    states, logits = _forward(torch, network, probe)
    words = head.weight.detach().numpy()
    if not _close(states[0, 0], states[1, 0], CAUSAL):
        raise ValueError(f"{refused}in this one a state depends on the words after it (an encoder)")
    if logits.shape[-1] != len(words) or not _close(states @ words.T, logits, LINEAR):
        raise ValueError(f"{refused}the logits of this one are no inner products with a dictionary")
    longest = getattr(network.config, "max_position_embeddings", None) or LONGEST_CONTEXT
    return CausalModel(name, words, min(longest, LONGEST_CONTEXT), parameters, network)


def _forward(
    torch: ModuleType, network: Any, windows: Any, positions: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the input of the last layer, and the logits of the last `positions` or of all."""
    seen = []

    def shorten(layer: Any, inputs: tuple[Any, ...]) -> Any:
        seen.append(inputs[0])
        return inputs[0] if positions is None else inputs[0][:, -positions:]

    hook = network.get_output_embeddings().register_forward_pre_hook(shorten)
    try:
        with torch.inference_mode():
            # Every window is read once, so keys and values need not be kept.
            logits = network(input_ids=windows, use_cache=False).logits
    finally:
        hook.remove()
    return seen[0].numpy(), logits.numpy()


def _close(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    return bool(np.max(np.abs(left - right)) <= tolerance * np.max(np.abs(right)))


def _libraries() -> tuple[ModuleType, ModuleType]:
    """Import the optional libraries."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            "language models need transformers and torch; install metastep[language]"
        ) from error
    return torch, transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Suppress the library's progress bars and warnings while it loads."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    """Return the first sentence of the library's error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
