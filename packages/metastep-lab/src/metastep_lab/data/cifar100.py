"""CIFAR-100, from its original archives or folders."""

from pathlib import Path

from metastep_lab.data.cifar import Labels, Layout, original_forms
from metastep_lab.data.dataset import Dataset, Recipe, load

CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
COARSE_CLASSES = tuple(
    """aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
    vehicles_2""".split()
)
LAYOUT = Layout(
    (("train", "train"), ("test", "test")),
    (
        Labels("coarse_labels", "coarse_labels", COARSE_CLASSES),
        Labels("fine_labels", "labels", CLASSES),
    ),
)


def cifar100(folder: Path | None = None) -> Dataset:
    """CIFAR-100: color photographs of 32 x 32 pixels in a hundred classes of twenty kinds.

    The arrays hold training examples first, then test examples: `images`, uint8 of shape
    (n, 32, 32, 3), channels red, green, blue; `labels` and `coarse_labels`, uint8 of shape (n,), 0
    to 99 and 0 to 19; `split`, strings of shape (n,), `"train"` or `"test"`; `classes` and
    `coarse_classes`, strings of shape (100,) and (20,), the names of the labels. The originals give
    n = 50000 + 10000.

    Accepted, the first that is there: `cifar-100-python` or `cifar-100-python.tar.gz` (the Python
    version, whose pickles are read without running anything they name), `cifar-100-binary` or
    `cifar-100-binary.tar.gz` (the binary version). The home page is
    https://www.cs.toronto.edu/~kriz/cifar.html.

    A given folder is searched first, before `METASTEP_DATA` and the user's cache.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is damaged, or one of the two batches is missing.

    Reference:
        Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    return load(CIFAR100, folder)


CIFAR100 = Recipe(
    name="cifar100",
    title="CIFAR-100",
    license="no explicit license; its authors ask for the citation of Krizhevsky 2009",
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    originals="cifar-100-python.tar.gz or cifar-100-binary.tar.gz (packed or extracted)",
    subset="",
    forms=original_forms(
        LAYOUT,
        ("cifar-100-python", "cifar-100-python.tar.gz"),
        ("cifar-100-binary", "cifar-100-binary.tar.gz"),
    ),
)
