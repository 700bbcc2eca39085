"""From the colours of an image's own profile (ICC) to sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # of 255; a profile that changes less is sRGB itself
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, RGB or CMYK in RGB. A profile that is damaged, or of another kind of image, is ignored."""
    if profile and (found := _transform(profile)):
        mode, transform = found
        if (image.mode, mode) == ("L", "RGB"):
            image = image.convert("RGB")
        if image.mode == mode:
            return ImageCms.applyTransform(image, transform) or image
    return image.convert("RGB")


def is_srgb(profile: bytes | None) -> bool:
    """Whether `in_srgb` has nothing to convert."""
    return not profile or _transform(profile) is None


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """(mode, from this mode to sRGB); None if the profile is sRGB itself, or cannot be used."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        mode = MODES[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError, TypeError, ValueError, ImportError):
        return None
    return None if mode != "CMYK" and _changes_nothing(mode, transform) else (mode, transform)


def _changes_nothing(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform leaves all colours of a grid as they are."""
    steps = np.linspace(0, 255, 9 if mode == "RGB" else 256).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode)), -1).reshape(1, -1, len(mode))
    image = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    got = np.asarray(ImageCms.applyTransform(image, transform)).astype(int)
    return bool(np.abs(got - grid).max() <= SAME)
