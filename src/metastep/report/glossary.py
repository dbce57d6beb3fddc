"""Words that a reader of the report page may not know."""

import re

WORDS = (
    (
        "Inner and outer steps",
        r"outer step|outer loop|inner step|outer_step|tuned|tuning",
        "Tuning runs two loops. Inner steps train a model. Each outer step then changes how it is "
        "trained, such as its step size or the weight of each example, so that the trained model "
        "does better.",
    ),
    (
        "Hypergradient, meta-gradient",
        r"hypergradient|meta-gradient|exact gradient",
        "The direction in which to change what is tuned: the gradient of the loss at the end, "
        "taken through all of the training. Its norm |d| is zero where nothing is left to improve.",
    ),
    (
        "Window K, K-RMD",
        r"window|K-RMD|truncat",
        "How many of the last inner steps the gradient is taken through. A short window is cheap "
        "but biased; the full window is exact.",
    ),
    (
        "Train-by-train, train-by-validation",
        r"train-by-",
        "What is tuned is judged by the loss on the training examples themselves, or on examples "
        "that were held out.",
    ),
    (
        "Validation and test",
        r"validation|test accuracy|test error",
        "Two sets of examples that no model is trained on: the first steers the tuning, the second "
        "is looked at only in the end.",
    ),
    (
        "MAML, train rate, test rate",
        r"MAML|train rate|test rate",
        "MAML learns a start from which one short training solves a new task. The train rate is "
        "the step size of that training while learning the start, the test rate the one in use.",
    ),
    (
        "F1 score",
        r"\bF1\b",
        "How well a search finds what it looks for, from 0 to 1: high only if it misses few and "
        "flags few wrongly.",
    ),
    (
        "ROC AUC",
        r"ROC|roc_auc",
        "How often a wrong example is ranked above a correct one: 1 is perfect, 0.5 is chance.",
    ),
    (
        "Cross-entropy, nats",
        r"cross-entropy|nats?\b",
        "How surprised a model is by the right answer, in units of the natural logarithm; 0 is "
        "perfect.",
    ),
    (
        "Divergence (KL)",
        r"divergence|\bKL\b",
        "How far one probability distribution is from another; 0 if they are equal.",
    ),
    (
        "PAC-Bayes bound",
        r"PAC-Bayes|guaranteed error|penalty",
        "An error rate that a network is guaranteed, with high probability, not to exceed on new "
        "data; computed from the training data alone.",
    ),
    (
        "Hessian, eigenvectors",
        r"Hessian|eigen",
        "The matrix of second derivatives of the loss. Its eigenvectors are the directions in "
        "which the loss bends independently, its eigenvalues say how much.",
    ),
    (
        "Dictionary, atoms",
        r"\batoms?\b|dictionary",
        "Sparse coding writes each sample as a sum of few building blocks, the atoms; all of them "
        "together are the dictionary.",
    ),
    (
        "Anchor words, bulk",
        r"anchor|bulk",
        "A language model gives every word a score. Few words are looked at one by one; the rest, "
        "the bulk, is summarized by a formula that the anchors fix.",
    ),
    (
        "Standard error, ±",
        r"standard error|s\.e\.|±",
        "By how much an average would typically change if the experiment were repeated.",
    ),
)


def used_words(text: str) -> list[tuple[str, str]]:
    """Choose the words that a text uses.

    Args:
        text: all that is said on a page.

    Returns:
        Word and explanation.

    >>> [word for word, _ in used_words("The F1 score rises with the window.")]
    ['Window K, K-RMD', 'F1 score']
    """
    return [(word, meaning) for word, pattern, meaning in WORDS if re.search(pattern, text)]
