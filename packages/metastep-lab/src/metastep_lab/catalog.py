"""The catalogue of experiments as plain data; it imports none of them.

`metastep list`, the shell completion and the documentation read it. `metastep run` and the other
commands import only the experiment that they need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LARGEST_SEED = 2**32 - 1
"""The largest seed that every random generator in use accepts."""


@dataclass(frozen=True)
class Listing:
    """One experiment as the catalogue names it.

    Attributes:
        name: as on the command line.
        source: the paper and its figure or table.
        question: the question of the experiment, in one sentence that a newcomer understands.
        minutes: preset to its minutes on two cores.
        module: the module that has it as `EXPERIMENT`.
    """

    name: str
    source: str
    question: str
    minutes: Mapping[str, float]
    module: str


def listing(name: str, catalog: Sequence[Listing] | None = None) -> Listing:
    """Return the entry of a name; `catalog` is `CATALOG` for None.

    Raises:
        KeyError: if there is none of that name.
    """
    for one in CATALOG if catalog is None else catalog:
        if one.name == name:
            return one
    raise KeyError(name)


CATALOG: tuple[Listing, ...] = (
    Listing(
        name="step-size-quadratic",
        source=(
            "Wang et al. 2021, section 5, Figure 1; its earlier version, Tables 1-2 and Figure 2"
        ),
        question=(
            "Can the step size of gradient descent be learned by descending on how well "
            "training ends, and where does back-propagation through the training fail at it?"
        ),
        minutes={"quick": 1.0, "paper": 1.5},
        module="metastep_lab.wang2021.step_size_quadratic.experiment",
    ),
    Listing(
        name="least-squares",
        source="Wang et al. 2021, section 5, Figures 2 and 3",
        question=(
            "Does a step size that was tuned on training loss overfit, and does tuning it on "
            "validation loss help?"
        ),
        minutes={"quick": 0.5, "paper": 3.0},
        module="metastep_lab.wang2021.least_squares.experiment",
    ),
    Listing(
        name="least-squares-sgd",
        source="Wang et al. 2021, Appendix D, Theorems 9 and 10",
        question=(
            "Which step size does stochastic gradient descent learn from the training loss "
            "and which from a validation loss, and which of the two generalizes?"
        ),
        minutes={"quick": 0.5, "paper": 2.5},
        module="metastep_lab.wang2021.least_squares_sgd.experiment",
    ),
    Listing(
        name="step-size-guarantees",
        source=(
            "Wang et al. 2021, Theorems 4 to 6; Wang et al. 2020, Theorems 7 and 8, Appendix A.2"
        ),
        question=(
            "Do the guarantees for a tuned step size hold in as many draws of the training tasks "
            "as they promise?"
        ),
        minutes={"quick": 0.6, "full": 15.0},
        module="metastep_lab.wang2021.step_size_guarantees.experiment",
    ),
    Listing(
        name="mlp-optimizer",
        source="Wang et al. 2021, Figures 4, 5; Wang et al. 2020, Figures 5 to 10",
        question=(
            "Does a learned optimizer that was meta-trained on validation loss train networks"
            " that generalize better than one that was meta-trained on training loss?"
        ),
        minutes={
            **{"quick": 2.5, "reduced": 60.0, "reduced-sizes": 55.0},
            **{"paper": 12000.0, "paper-sizes": 100000.0},
        },
        module="metastep_lab.wang2021.mlp_optimizer.experiment",
    ),
    Listing(
        name="maml-linear",
        source="Bernacchia 2021, sections 5.1 and 5.2, Figures 2, 3 and 6",
        question=(
            "Which inner learning rate should MAML train with: is the best one really "
            "negative, and does the theory of mixed linear regression predict it?"
        ),
        minutes={"quick": 0.4, "paper": 1.2},
        module="metastep_lab.bernacchia2021.maml_linear.experiment",
    ),
    Listing(
        name="maml-wishart",
        source="Bernacchia 2021, section 5.3, Figure 4",
        question=(
            "Is the best learning rate to train MAML with still negative when inputs and "
            "tasks are strongly correlated?"
        ),
        minutes={"quick": 0.2, "paper": 0.7},
        module="metastep_lab.bernacchia2021.maml_wishart.experiment",
    ),
    Listing(
        name="maml-nonlinear",
        source="Bernacchia 2021, section 5.4, Figure 5",
        question=(
            "Is it better to train the starting point of a wide nonlinear network with a "
            "negative inner step size?"
        ),
        minutes={"quick": 1.0, "reduced": 12.0, "paper": 300.0},
        module="metastep_lab.bernacchia2021.maml_nonlinear.experiment",
    ),
    Listing(
        name="truncation-toy",
        source="Shaban et al. 2019, section 4.1, Figures 1-4, Theorem 3.5, Proposition 3.6",
        question=(
            "How wrong is a hypergradient that looks back over the last K training steps "
            "only, and when does descent along it still find the optimum?"
        ),
        minutes={"quick": 0.5, "paper": 1.0},
        module="metastep_lab.shaban2019.truncation_toy.experiment",
    ),
    Listing(
        name="estimator-costs",
        source="Shaban et al. 2019, Table 1",
        question=(
            "How do memory and time of a hypergradient grow with the training steps, the window "
            "and the number of hyperparameters?"
        ),
        minutes={"quick": 1.2, "full": 10.0},
        module="metastep_lab.shaban2019.estimator_costs.experiment",
    ),
    Listing(
        name="hypercleaning",
        source="Shaban et al. 2019, section 4.2.1, Table 2, Figure 5",
        question=(
            "Half of the training labels may be wrong. Can the gradient of the validation "
            "loss with respect to one weight per training example find out which?"
        ),
        minutes={"quick": 0.7, "reduced": 30.0, "paper": 45.0},
        module="metastep_lab.shaban2019.hypercleaning.experiment",
    ),
    Listing(
        name="task-interaction",
        source="Shaban et al. 2019, section 4.2.2, Table 3, Figure 6",
        question=(
            "Five examples per class are too few. Can the gradient of the validation loss "
            "find out which classes should share what they learn?"
        ),
        minutes={"quick": 0.6, "reduced": 3.0, "paper": 90.0, "paper-cifar100": 900.0},
        module="metastep_lab.shaban2019.task_interaction.experiment",
    ),
    Listing(
        name="one-shot",
        source="Shaban et al. 2019, section 4.3, Table 4, Figure 7",
        question=(
            "Can a network learn to tell five characters apart after seeing each of them "
            "once, and does it have to differentiate through all of its learning for that?"
        ),
        minutes={"quick": 3.0, "reduced": 50.0, "paper": 1800.0, "paper-15k": 2200.0},
        module="metastep_lab.shaban2019.one_shot.experiment",
    ),
    Listing(
        name="label-noise",
        source=(
            "Shaban et al. 2019, section 4.2.1, beside confident learning (Northcutt et al. 2021)"
        ),
        question=(
            "Does tuning one weight per example by hypergradients find wrong labels better "
            "than confident learning does, and what does it owe to its clean validation set?"
        ),
        minutes={"quick": 1.2, "paper": 18.0},
        module="metastep_lab.studies.label_noise.experiment",
    ),
    Listing(
        name="data-attribution",
        source="Ilyas and Engstrom 2025, MAGIC; Park et al. 2023, TRAK, section 2",
        question=(
            "Do scores of training examples predict what training without them does, and does one "
            "know beforehand when they do not?"
        ),
        minutes={"quick": 1.0, "reduced": 15.0, "paper": 120.0},
        module="metastep_lab.studies.data_attribution.experiment",
    ),
    Listing(
        name="data-weights",
        source="Calian et al. 2025, DataRater",
        question=(
            "Can a network learn through training what each training example is worth, and do its "
            "ratings help another model?"
        ),
        minutes={"quick": 1.0, "full": 15.0},
        module="metastep_lab.studies.data_weights.experiment",
    ),
    Listing(
        name="sparse-coding",
        source="Chidambaram et al. 2023; thesis of Wu, chapter 2, Figures 2.1 to 2.3",
        question=(
            "A dictionary with more atoms than the truth can learn the noise of its data. "
            "Does it find the true atoms if it has to predict hidden coordinates instead?"
        ),
        minutes={"quick": 0.7, "paper": 40.0},
        module="metastep_lab.wu2022.sparse_coding.experiment",
    ),
    Listing(
        name="dictionary-losses",
        source="Thesis of Wu, chapter 2, Theorems 2.3.2 and 2.3.6, Corollary 2.3.4",
        question=(
            "Can a dictionary that fits the noise have a smaller loss than the true one, and does "
            "hiding coordinates prevent it?"
        ),
        minutes={"quick": 0.4, "full": 10.0},
        module="metastep_lab.wu2022.dictionary_losses.experiment",
    ),
    Listing(
        name="anchor-vectors",
        source=(
            "Wu, Lee and Ge 2023; thesis of Wu, Figures 3.1-3.3, B.1-B.4, Tables 3.1, B.1, B.2"
        ),
        question=(
            "Does one fixed vector estimate, from the hidden state of a language model, the "
            "sum over all words but the most probable ones?"
        ),
        minutes={"quick": 1.0, "reduced": 6.0, "paper": 900.0},
        module="metastep_lab.wu2022.anchor_vectors.experiment",
    ),
    Listing(
        name="downstream-transfer",
        source="Wu, Lee and Ge 2023; thesis of Wu, Theorems 3.3.1, 3.3.2 and 3.5.7",
        question=(
            "Does a language model that predicts words almost as well as another one also "
            "serve as well for classifying text?"
        ),
        minutes={"quick": 0.5, "paper": 6.0},
        module="metastep_lab.wu2022.downstream_transfer.experiment",
    ),
    Listing(
        name="hessian-structure",
        source="Wu 2022, Tables C.5-C.7, Figures 4.1b, 4.2, 4.3, C.1, C.7-C.17, C.22, C.24-C.26",
        question=(
            "Is the Hessian of a layer nearly a Kronecker product of low rank, made of the layer's "
            "mean input and of as many directions as there are classes, less one?"
        ),
        minutes={
            "quick": 1.5,
            "reduced": 40.0,
            "paper": 130.0,
            "fig-4.3": 90.0,
            "fig-c1": 600.0,
            "fig-c7": 450.0,
            "fig-c12": 80_000.0,
            "table-c5-mnist": 2600.0,
            "table-c5-cifar10": 40_000.0,
            "table-c5-lenet": 9000.0,
            "table-c5-cifar100": 2_000_000.0,
            "table-c7-mnist": 900.0,
            "table-c7-cifar10": 2700.0,
        },
        module="metastep_lab.wu2022.hessian_structure.experiment",
    ),
    Listing(
        name="hessian-overlap",
        source="Wu 2022, Theorem C.7.1, Figures 4.1a, 4.4, C.2-C.6, C.18-C.21, C.23",
        question=(
            "Do the leading eigenspaces of the Hessians of independently trained networks overlap "
            "most at the number of a layer's outputs?"
        ),
        minutes={
            "quick": 1.0,
            "reduced": 60.0,
            "paper": 3600.0,
            "fig-c2": 6500.0,
            "fig-c3-cifar10": 500_000.0,
            "fig-c3-cifar100": 110_000.0,
            "fig-c4": 2_000_000.0,
            "fig-c23": 2500.0,
        },
        module="metastep_lab.wu2022.hessian_overlap.experiment",
    ),
    Listing(
        name="hessian-two-layer",
        source="Wu 2022, Theorems 4.4.1 and 4.4.2",
        question=(
            "In a wide random network, does the Hessian of a layer become a Kronecker "
            "product, and what is its leading eigenspace?"
        ),
        minutes={"quick": 0.5, "paper": 4.0},
        module="metastep_lab.wu2022.hessian_two_layer.experiment",
    ),
    Listing(
        name="pac-bayes",
        source="Wu 2022, Tables 4.1 and C.8, Figure C.27",
        question=(
            "Is the guaranteed error of a network lower when the uncertainty of its weights "
            "follows the eigenvectors of its layer-wise Hessians?"
        ),
        minutes={"quick": 2.0, "ten-classes": 15.0, "reduced": 40.0, "paper": 3000.0},
        module="metastep_lab.wu2022.pac_bayes.experiment",
    ),
    Listing(
        name="advisor",
        source=(
            "metastep's own, with the bound (10) and the counter-example of Shaban et al. 2019"
        ),
        question="Is the estimator that the advisor recommends the right one, and at what price?",
        minutes={"quick": 2.0, "reduced": 25.0, "paper": 60.0},
        module="metastep_lab.studies.advisor.experiment",
    ),
)
