"""The classification sets of torchvision: how each is opened, and what is known about it; without importing
it.
"""

from dataclasses import dataclass, field
from typing import Any

GREY: dict[str, Any] = {"channels": 1}
DIGITS: dict[str, Any] = {"channels": 1, "flip": False}
TRAIN_TEST = ({"split": "train"}, {"split": "test"})
TRAIN_VAL = ({"split": "train"}, {"split": "val"})
BY_FLAG = ({"train": True}, {"train": False})
RAW = "{}/raw/train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-..., t10k-labels-..."


@dataclass(frozen=True)
class TorchvisionSet:
    """One class of torchvision.datasets.

    Attributes:
        docstring: what it holds, in one line.
        parts: arguments for the training part and, if the set defines one, the validation part.
        needed: the files to put into the root by hand, below it.
        facts: attributes of the data set, as in `ImageData`; those left out are measured, or `ImageData`'s.
        classes: class names, if torchvision gives none.
        arrays: torchvision holds the images as arrays.
        requires: a package that torchvision needs to read it.
    """

    docstring: str
    parts: tuple[dict[str, Any], ...]
    needed: str
    facts: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    arrays: bool = False
    requires: str = ""


def _small(mean: tuple[float, ...], std: tuple[float, ...], **facts: Any) -> dict[str, Any]:
    return {"min_crop": 1.0, "mean": mean, "std": std, **facts}


# fmt: off
TABLE = {
    "MNIST": TorchvisionSet(
        "Handwritten digits: 60,000 to train, 10,000 to test, 28 x 28, grey (LeCun, Cortes, Burges 1998).",
        BY_FLAG, RAW.format("MNIST"), _small((0.1307,), (0.3081,), image_size=28, **DIGITS), arrays=True),
    "FashionMNIST": TorchvisionSet(
        "Pieces of clothing of ten kinds, as many and of the same size as MNIST (Xiao, Rasul, Vollgraf "
        "2017).", BY_FLAG, RAW.format("FashionMNIST"), _small((0.2860,), (0.3530,), image_size=28, **GREY),
        arrays=True),
    "KMNIST": TorchvisionSet(
        "Japanese characters of ten kinds, as many and of the same size as MNIST (Clanuwat et al. 2018).",
        BY_FLAG, RAW.format("KMNIST"), _small((0.1918,), (0.3483,), image_size=28, **DIGITS), arrays=True),
    "QMNIST": TorchvisionSet(
        "MNIST rebuilt from its sources, with all 60,000 test digits, 28 x 28, grey (Yadav, Bottou 2019).",
        BY_FLAG,
        "QMNIST/raw/qmnist-train-images-idx3-ubyte.gz, qmnist-train-labels-idx2-int.gz, qmnist-test-...",
        DIGITS, arrays=True),
    "EMNIST": TorchvisionSet(
        "Handwritten digits and letters, the balanced split: 47 classes, 112,800 to train, 18,800 to "
        "test, 28 x 28, grey, stored transposed (Cohen et al. 2017).",
        ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
        "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte.gz, "
        "emnist-balanced-train-labels-idx1-ubyte.gz, emnist-balanced-test-...", DIGITS, arrays=True),
    "CIFAR10": TorchvisionSet(
        "Photographs of ten kinds: 50,000 to train, 10,000 to test, 32 x 32, colour (Krizhevsky 2009).",
        BY_FLAG, "cifar-10-python.tar.gz",
        _small((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), image_size=32), arrays=True),
    "CIFAR100": TorchvisionSet(
        "Photographs of a hundred kinds, as many and of the same size as CIFAR10 (Krizhevsky 2009).",
        BY_FLAG, "cifar-100-python.tar.gz",
        _small((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), image_size=32), arrays=True),
    "SVHN": TorchvisionSet(
        "House numbers, one digit each: 73,257 to train, 26,032 to test, 32 x 32, colour (Netzer et al. "
        "2011).", TRAIN_TEST, "train_32x32.mat, test_32x32.mat", {"flip": False}, arrays=True,
        requires="scipy"),
    "STL10": TorchvisionSet(
        "Photographs of ten kinds: 5,000 to train, 8,000 to test, 96 x 96, colour (Coates, Ng, Lee 2011).",
        TRAIN_TEST, "stl10_binary.tar.gz", {"image_size": 96, "min_crop": 0.25}, arrays=True),
    "USPS": TorchvisionSet(
        "Digits from envelopes: 7,291 to train, 2,007 to test, 16 x 16, grey (Hull 1994).", BY_FLAG,
        "usps.bz2, usps.t.bz2", DIGITS, arrays=True),
    "SEMEION": TorchvisionSet(
        "Handwritten digits, black and white: 1,593, 16 x 16 (Buscema, Terzi 1998).", ({},), "semeion.data",
        DIGITS, arrays=True),
    "Flowers102": TorchvisionSet(
        "Flowers of 102 kinds: 1,020 to train, 1,020 to validate (Nilsback, Zisserman 2008).", TRAIN_VAL,
        "flowers-102/jpg/*.jpg, flowers-102/imagelabels.mat, flowers-102/setid.mat", requires="scipy"),
    "OxfordIIITPet": TorchvisionSet(
        "Cats and dogs of 37 breeds: 3,680 to train, 3,669 to test (Parkhi et al. 2012).",
        ({"split": "trainval"}, {"split": "test"}),
        "oxford-iiit-pet/images.tar.gz, oxford-iiit-pet/annotations.tar.gz"),
    "Food101": TorchvisionSet(
        "Dishes of 101 kinds: 75,750 to train, 25,250 to test (Bossard, Guillaumin, Van Gool 2014).",
        TRAIN_TEST, "food-101.tar.gz"),
    "GTSRB": TorchvisionSet(
        "German traffic signs of 43 kinds: 26,640 to train, 12,630 to test, 15 to 250 pixels (Stallkamp "
        "et al. 2012).", TRAIN_TEST,
        "gtsrb/GTSRB/Training/*/*.ppm, gtsrb/GTSRB/Final_Test/Images/*.ppm, gtsrb/GT-final_test.csv",
        {"image_size": 48, "min_crop": 1.0, "flip": False}),
    "Caltech101": TorchvisionSet(
        "Photographs of objects of 101 kinds: 8,677 (Li, Andreeto, Ranzato, Perona 2004).", ({},),
        "caltech101/101_ObjectCategories/<class>/*.jpg, caltech101/Annotations", requires="scipy"),
    "Caltech256": TorchvisionSet(
        "Photographs of objects of 256 kinds and clutter: 30,607 (Griffin, Holub, Perona 2007).", ({},),
        "caltech256/256_ObjectCategories/<class>/*.jpg"),
    "DTD": TorchvisionSet(
        "Textures of 47 kinds: 1,880 to train, 1,880 to validate, the first partition (Cimpoi et al. "
        "2014).", TRAIN_VAL, "dtd/dtd-r1.0.1.tar.gz"),
    "EuroSAT": TorchvisionSet(
        "Satellite images of land use of ten kinds: 27,000, 64 x 64, colour (Helber et al. 2019).", ({},),
        "eurosat/2750/<class>/*.jpg"),
    "FGVCAircraft": TorchvisionSet(
        "Aircraft of 100 variants: 3,334 to train, 3,333 to validate (Maji et al. 2013).", TRAIN_VAL,
        "fgvc-aircraft-2013b.tar.gz"),
    "Country211": TorchvisionSet(
        "Photographs from 211 countries: 31,650 to train, 10,550 to validate (Radford et al. 2021).",
        ({"split": "train"}, {"split": "valid"}), "country211.tgz"),
    "Imagenette": TorchvisionSet(
        "Ten easy classes of ImageNet: 9,469 to train, 3,925 to validate (Howard 2019).", TRAIN_VAL,
        "imagenette2.tgz"),
    "RenderedSST2": TorchvisionSet(
        "Sentences drawn as images, negative or positive: 6,920 to train, 872 to validate (Radford et al. "
        "2021).", TRAIN_VAL, "rendered-sst2.tgz", {"min_crop": 1.0, "flip": False}),
    "PCAM": TorchvisionSet(
        "Tissue with and without tumour: 262,144 to train, 32,768 to validate, 96 x 96 (Veeling et al. "
        "2018).", TRAIN_VAL,
        "pcam/camelyonpatch_level_2_split_train_x.h5, ..._train_y.h5, ..._valid_x.h5, ..._valid_y.h5",
        classes=("normal", "tumor"), requires="h5py"),
    "SUN397": TorchvisionSet(
        "Scenes of 397 kinds: 108,754 (Xiao et al. 2010).", ({},), "SUN397.tar.gz"),
    "StanfordCars": TorchvisionSet(
        "Cars of 196 models: 8,144 to train, 8,041 to test (Krause et al. 2013).", TRAIN_TEST,
        "stanford_cars/cars_train/*.jpg, cars_test/*.jpg, devkit, cars_test_annos_withlabels.mat",
        requires="scipy"),
    "FER2013": TorchvisionSet(
        "Faces with seven expressions: 28,709, 48 x 48, grey (Goodfellow et al. 2013).",
        ({"split": "train"},), "fer2013/train.csv, or fer2013/icml_face_data.csv",
        _small((0.5077,), (0.2550,), image_size=48, **GREY),
        classes=("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")),
    "Omniglot": TorchvisionSet(
        "Handwritten characters of 964 kinds: 19,280, 105 x 105, grey, the background set (Lake et al. "
        "2015).", ({"background": True},), "omniglot-py/images_background.zip",
        _small((0.9221,), (0.2680,), image_size=105, **DIGITS)),
    "INaturalist": TorchvisionSet(
        "Animals and plants of 10,000 species: 500,000 to train (mini), 100,000 to validate (Van Horn "
        "2021).", ({"version": "2021_train_mini"}, {"version": "2021_valid"}),
        "2021_train_mini/<species>/*.jpg, 2021_valid/<species>/*.jpg"),
    "Places365": TorchvisionSet(
        "Scenes of 365 kinds: 1.8 million to train, 36,500 to validate, 256 x 256 (Zhou et al. 2017).",
        ({"split": "train-standard", "small": True}, {"split": "val", "small": True}),
        "train_256_places365standard.tar, val_256.tar, filelist_places365-standard.tar"),
    "ImageNet": TorchvisionSet(
        "ImageNet's 1,000 classes: 1.28 million to train, 50,000 to validate (Russakovsky et al. 2015).",
        TRAIN_VAL, "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz",
        requires="scipy"),
}
# fmt: on

# how many classes each has, known before it is opened
COUNTS = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "SVHN", "STL10", "USPS", "SEMEION"), 10),
    "EMNIST": 47,
    "CIFAR100": 100,
    "EuroSAT": 10,
    "Imagenette": 10,
    "RenderedSST2": 2,
    "PCAM": 2,
    "FER2013": 7,
    "Flowers102": 102,
    "OxfordIIITPet": 37,
    "Food101": 101,
    "GTSRB": 43,
    "Caltech101": 101,
    "Caltech256": 257,
    "DTD": 47,
    "FGVCAircraft": 100,
    "Country211": 211,
    "SUN397": 397,
    "StanfordCars": 196,
    "Omniglot": 964,
    "INaturalist": 10_000,
    "Places365": 365,
    "ImageNet": 1000,
}
