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
        "Estimator, advisor",
        r"[Ee]stimator|advisor",
        "An estimator is a way to compute the hypergradient, exactly or nearly; the advisor "
        "examines a problem and recommends one.",
    ),
    (
        "Window K, K-RMD",
        r"window|K-RMD|truncat",
        "How many of the last inner steps the gradient is taken through, backwards (reverse-mode "
        "differentiation, RMD). A short window is cheap but biased; the full window is exact.",
    ),
    (
        "Train-by-train, train-by-validation",
        r"train-by-",
        "What is tuned is judged by the loss on the training examples themselves, or on examples "
        "that were held out.",
    ),
    (
        "Outer losses f and f-tilde",
        r"f-tilde",
        "Two losses by which tuning is judged: f depends on what is tuned through the trained "
        "weights alone, f-tilde directly too.",
    ),
    (
        "eta, eta*",
        r"\beta(_|\b)|η",
        "The step size of the training, and the best one.",
    ),
    (
        "Closed form",
        r"closed form",
        "A formula for what is otherwise simulated.",
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
        "Overparameterized",
        r"parameterized",
        "With more parameters than the training data determine; underparameterized with fewer.",
    ),
    (
        "Linearized network",
        r"[Ll]ineariz",
        "A network replaced by its tangent at the start of training, as which a very wide one "
        "behaves.",
    ),
    (
        "Control variate",
        r"control variate",
        "A number that is known more precisely and that chance moves along with the one that is "
        "sought: what chance did to it is subtracted.",
    ),
    (
        "F1 score",
        r"\bF1\b",
        "How well a search finds what it looks for, from 0 to 1: high only if it misses few and "
        "flags few wrongly.",
    ),
    (
        "Hypercleaning, confident learning",
        r"[Hh]ypercleaning|confident learning",
        "Two ways to find wrong labels. Hypercleaning tunes one weight per training example by "
        "the loss on a validation set; confident learning looks for labels that a cross-validated "
        "model finds improbable.",
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
        "RMSE, MSE, R2",
        r"\bR?MSE\b|\bR2\b",
        "The mean squared error and its root; R2 is the part of the variance that is explained: 1 "
        "is perfect, 0 is no better than the mean.",
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
        "Posterior, prior",
        r"[Pp]osterior|\b[Pp]rior\b",
        "The distributions from which the weights of a random network are drawn, after the data "
        "were seen and before. The more they differ, the weaker is the guarantee.",
    ),
    (
        "Hessian, eigenvectors",
        r"Hessian|eigen",
        "The matrix of second derivatives of the loss. Its eigenvectors are the directions in "
        "which the loss bends independently, its eigenvalues say how much.",
    ),
    (
        "Kronecker product",
        r"Kronecker|\(x\)|⊗",
        "A large matrix made of two small ones: each entry of the one times all of the other.",
    ),
    (
        "Overlap, eigenspace",
        r"overlap|eigenspace|eigenbasis",
        "An eigenspace is spanned by eigenvectors. The overlap of two spaces is 1 if they are the "
        "same and 0 if they are at right angles.",
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
        "Logit, head",
        r"logits?\b|\b[Hh]eads?\b",
        "A logit is the score that a model gives a word or class before scores are turned into "
        "probabilities. A head is a small classifier on top of such numbers.",
    ),
    (
        "Teacher, student",
        r"\bteacher|\bstudent",
        "Two models, of which the second should behave as the first does.",
    ),
    (
        "log Z, partition function",
        r"log Z|partition function",
        "The logarithm of the sum by which exponential scores are divided to make probabilities "
        "of them.",
    ),
    (
        "Standard error, ±",
        r"standard error|s\.e\.|±",
        "By how much an average would typically change if the experiment were repeated.",
    ),
    (
        "z, seed",
        r"\bz\b|seed",
        "z is a difference in units of its standard error; beyond 3 it is rarely chance. A seed "
        "fixes the random numbers of one repetition.",
    ),
)


def used_words(text: str) -> list[tuple[str, str]]:
    """Choose the words that a text uses, with their explanations.

    >>> [word for word, _ in used_words("The F1 score rises with the window.")]
    ['Window K, K-RMD', 'F1 score']
    """
    return [(word, meaning) for word, pattern, meaning in WORDS if re.search(pattern, text)]
