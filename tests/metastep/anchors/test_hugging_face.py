"""Tiny random models, saved and read back: the states are what the last layer multiplies."""

import sys

import numpy as np
import pytest

from metastep.anchors import fit_anchor
from metastep.anchors.hugging_face import load_causal_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 97
TOKENS = np.random.default_rng(12).integers(VOCABULARY, size=75)
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}


def gpt2():
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **SPECIAL)


def opt(**changed):
    more = {"ffn_dim": 32, "max_position_embeddings": 32}
    return transformers.OPTConfig(vocab_size=VOCABULARY, **SIZES, **more, **SPECIAL, **changed)


def opt_350m():
    """The form of OPT-350M: words of another size than the states, normalization after layers."""
    return opt(word_embed_proj_dim=8, do_layer_norm_before=False)


def cohere():
    more = {"intermediate_size": 32, "logit_scale": 0.5}
    return transformers.CohereConfig(vocab_size=VOCABULARY, **SIZES, **more, **SPECIAL)


def bert():
    return transformers.BertConfig(vocab_size=VOCABULARY, **SIZES, intermediate_size=32)


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Return a function that writes a random model and returns its directory and the model."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def write(config, kind=transformers.AutoModelForCausalLM.from_config):
        torch.manual_seed(0)
        model = kind(config).eval()
        directory = tmp_path_factory.mktemp(config.model_type)
        model.save_pretrained(directory)
        return directory, model

    return write


@pytest.mark.parametrize("make", [gpt2, opt, opt_350m])
def test_states_times_unembedding_are_the_logits(make, save):
    directory, network = save(make())
    model = load_causal_model(directory)
    states = list(model.hidden_states(TOKENS))
    assert [len(window) for window in states] == [32, 32, 11] and model.context == 32
    for start, window in zip((0, 32, 64), states, strict=True):
        with torch.inference_mode():
            ids = torch.from_numpy(TOKENS[start : start + 32])[None]
            logits = network(input_ids=ids).logits[0].numpy()
        # Float32 sums of 16 products; the last state is after the normalization, or they differ.
        np.testing.assert_allclose(window @ model.unembedding.T, logits, atol=1e-5)
    assert model.parameters == sum(weights.numel() for weights in network.parameters())
    fit = fit_anchor(model.hidden_states(TOKENS), model.unembedding, (0, 5))
    assert fit.log_partitions.shape == (75, 2) and np.isfinite(fit.mse).all()


@pytest.mark.parametrize(("longest", "context"), [(2048, 2048), (4096, 2048)])
def test_windows_are_the_models_own_up_to_those_of_opt(longest, context, save):
    config = opt()
    config.max_position_embeddings = longest
    model = load_causal_model(save(config)[0])
    tokens = np.resize(TOKENS, 2050)
    assert model.context == context
    assert [len(window) for window in model.hidden_states(tokens)] == [2048, 2]


def test_a_shorter_context_reads_shorter_windows(save):
    model = load_causal_model(save(gpt2())[0])
    states = [window for window in model.hidden_states(TOKENS[:20], context=8)]
    assert [len(window) for window in states] == [8, 8, 4]
    again = next(model.hidden_states(TOKENS[8:16]))
    np.testing.assert_allclose(states[1], again, atol=1e-6)  # rounding of float32


def test_wrong_tokens(save):
    model = load_causal_model(save(gpt2())[0])
    wrong = ([], [VOCABULARY], [-1], [0.5], [[1, 2]])
    for tokens in wrong:
        with pytest.raises(ValueError, match="tokens"):
            next(model.hidden_states(tokens))
    for context in (0, 33):
        with pytest.raises(ValueError, match=f"context is {context}; allowed .* 1 to 32"):
            next(model.hidden_states(TOKENS, context=context))
    with pytest.raises(ValueError, match="holds no tokenizer"):
        model.tokens("a text")


def test_what_is_no_causal_language_model(save, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    refused = [
        (tmp_path / "empty", "allowed is a causal language model"),
        (tmp_path / "broken", "allowed is a causal language model"),
        (tmp_path / "nowhere", "no such directory, nor a model of this name in the cache"),
        (save(bert())[0], "an encoder"),
        (save(bert(), transformers.BertModel)[0], "weights of .* are missing"),
        (save(cohere())[0], "no inner products with a dictionary"),
    ]
    damaged = save(gpt2())[0]
    (damaged / "model.safetensors").write_bytes(b"not weights")
    for directory, message in [*refused, (damaged, "allowed is a causal language model")]:
        with pytest.raises(ValueError, match=message) as caught:
            load_causal_model(directory)
        assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"metastep\[language\]"):
        load_causal_model("gpt2")
