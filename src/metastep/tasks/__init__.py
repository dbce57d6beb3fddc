"""What a model is trained on."""

from metastep.tasks.classification import WeightedClassification as WeightedClassification
from metastep.tasks.classification import accuracy as accuracy
from metastep.tasks.classification import cross_entropy as cross_entropy
from metastep.tasks.stored_twice import StoredTwice as StoredTwice
