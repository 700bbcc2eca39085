"""The command `features`."""

from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from data.listing import endings, find_each
from engine import saved
from utils.text import counted, printable


@SetParseFn(str)
def features(*images: Any, **flags: Any) -> Any:
    """Write what a layer gives for each image: an array (.npy) with the image of each row (.csv), or all as .csv.

    Maps are averaged over their positions. The run folder gets a map of the rows in two dimensions, for `report`.

    Returns:
        The array, (N, D) float32, mapped from its file.

    Examples:
        python main.py features --load-path=last data/train
        python main.py features --load-path=checkpoints/RUN DIR --layer=layer3 --features-file=layer3.npy
    """
    opt, checkpoint = saved.load_saved("features", flags)
    found, others = find_each(images, "features")

    from analysis import features as of_layers
    from engine.setup import load_task

    metadata = checkpoint["metadata"]
    name = opt.dataset or metadata.get("config", {}).get("dataset")
    labels = of_layers.known_labels(name, Path(images[0]), metadata["classes"]) if len(images) == 1 else {}
    written = of_layers.write_features(load_task(opt.model_copy(update=of_layers.PLAIN), checkpoint), found, labels)
    for line in written.bad:
        print(f"no row: {line}")
    if others:
        print(f"{counted(len(others), 'file')} left out as no images: {endings(others)}, as {printable(others[0])}")
    count, size = written.values.shape
    rows = Path(opt.features_file).with_suffix(".csv")
    images_of = f"; {rows}: their images" if str(rows) != opt.features_file else ""
    print(f"{opt.features_file}: {counted(count, 'row')} of {size} numbers, {written.source}{images_of}")
    if path := of_layers.write_map(written, Path(opt.load_path)):
        print(f"{path}: their map in two dimensions; `report` draws it")
    return written.values
