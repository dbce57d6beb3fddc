"""Table 3 of the paper: a data set to a window to a number."""

# Test accuracy, and what follows its "±" over ten trials. We read that as a standard deviation,
# which the paper does not say.
PAPER_ACCURACY = {
    "cifar10": {1: 0.6111, 5: 0.6133, 25: 0.6131, 100: 0.6128},
    "cifar100": {1: 0.3437, 5: 0.3434, 25: 0.3451, 100: 0.3470},
}
PAPER_DEVIATION = {
    "cifar10": {1: 0.0123, 5: 0.0108, 25: 0.0124, 100: 0.0121},
    "cifar100": {1: 0.0063, 5: 0.0068, 25: 0.0069, 100: 0.0064},
}
PAPER_STEPS = {
    "cifar10": {1: 3300, 5: 4950, 25: 4825, 100: 4500},
    "cifar100": {1: 7440, 5: 8805, 25: 8660, 100: 5670},
}
PAPER_SECONDS = {
    "cifar10": {1: 0.8, 5: 1.3, 25: 1.4, 100: 2.2},
    "cifar100": {1: 1.0, 5: 1.4, 25: 1.6, 100: 2.8},
}
