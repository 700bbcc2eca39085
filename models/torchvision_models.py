"""torchvision's classifiers, by torchvision's names, with the methods of BasicModule."""

from typing import Any

from torchvision.models import get_model, get_model_weights

from models import calling
from models.basic_module import BasicModule


def build(name: str, num_classes: int, image_size: int, arguments: dict[str, Any]) -> BasicModule:
    """The net with fresh weights: (N, 3, image_size, image_size) -> logits (N, num_classes).

    Its state dict has torchvision's names. `model_name` is torchvision's name.

    Raises:
        ValueError, AssertionError: an image size that a vision transformer or MaxViT cannot be built for.
        UsageError: an argument that the model does not take.
    """
    options = _options(name, image_size)
    try:
        net = get_model(name, num_classes=num_classes, **options, **arguments)
    except calling.REFUSALS as e:
        if not arguments:
            raise
        raise calling.refused(name, arguments, e, lambda: get_model(name, num_classes=num_classes, **options)) from e
    # torchvision chose the class, so BasicModule can only be mixed in afterwards. Then save, load and
    # get_optimizer work as in our own models, and the state dict's names stay, which a wrapper would prefix.
    net.__class__ = type(type(net).__name__, (BasicModule, type(net)), {})
    net.model_name, net.num_classes, net.torchvision_name, net.in_channels = name, num_classes, name, 3
    return net


def facts(name: str) -> str:
    """Input, output and size of the net in words, from what torchvision says of its newest weights."""
    weights = get_model_weights(name).DEFAULT
    side, (height, width) = weights.transforms.keywords["crop_size"], weights.meta["min_size"]
    return (
        f"Input (N, 3, H, W); torchvision's weights take {height} x {width} or more, evaluated at {side} x {side}.\n"
        f"Output logits (N, num_classes). {weights.meta['num_params']:,} parameters with 1000 classes."
    )


def _options(name: str, image_size: int) -> dict[str, Any]:
    """What some families need beyond the class count."""
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads would make the output of training a tuple. transform_input goes with the ImageNet
        # weights, and with fresh ones too: a checkpoint then reloads alike, wherever its net came from.
        return {"aux_logits": False, "init_weights": True, "transform_input": True}
    return {}
