"""Training tasks: losses with their data."""

from metastep.tasks.classification import WeightedClassification as WeightedClassification
from metastep.tasks.classification import accuracy as accuracy
from metastep.tasks.classification import cross_entropy as cross_entropy
from metastep.tasks.few_shot import Sinusoid as Sinusoid
from metastep.tasks.few_shot import random_sinusoid as random_sinusoid
from metastep.tasks.few_shot import squared_error as squared_error
from metastep.tasks.least_squares import Examples as Examples
from metastep.tasks.least_squares import LeastSquares as LeastSquares
from metastep.tasks.least_squares import random_least_squares as random_least_squares
from metastep.tasks.quadratic import Quadratic as Quadratic
from metastep.tasks.quadratic import random_quadratic as random_quadratic
from metastep.tasks.stored_twice import StoredTwice as StoredTwice
