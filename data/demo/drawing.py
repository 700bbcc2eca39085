"""The pictures of the built-in data set Demo: drawn cats and dogs, in the layout of Kaggle's Dogs vs. Cats.

Cats and dogs differ only in shape: ears, muzzle, eyes, whiskers. Everything else (colours, ground, light,
place, size, tilt, markings) is drawn at random, independently of the kind, and each colour covers about the
same area in both.

Lengths are in half head widths: (0, 0) is the middle of the head, x points right, y points down.
"""

import colorsys
import math
import os
import tempfile
from pathlib import Path
from random import Random
from types import SimpleNamespace

from PIL import Image, ImageDraw

from data.demo.pen import Colour, Pen, flip, mirrored, oval, smooth

KINDS = ("cat", "dog")
ZOOM = 2  # pictures are drawn larger by this factor and scaled down, for smooth edges

# Right halves of outlines, from the top down to the chin.
CAT_HEAD = [(0, -0.76), (0.5, -0.72), (0.92, -0.15), (0.96, 0.25), (0.55, 0.74), (0, 0.84)]
DOG_HEAD = [(0, -0.86), (0.5, -0.78), (0.76, -0.25), (0.72, 0.35), (0.5, 0.86), (0, 1.0)]
DOG_MUZZLE = [(0, 0.02), (0.28, 0.2), (0.44, 0.55), (0.28, 0.86), (0, 0.9)]
BLAZE = [(0, -0.8), (0.14, -0.2), (0.2, 0.25), (0, 0.35)]
ALMOND = [(0.2, -0.02), (0.4, -0.25), (0.65, -0.14), (0.44, 0.08)]  # the cat's right eye
PUPIL, GLINT = (15, 15, 20), (245, 245, 245)


def tone(hue: float, light: float, depth: float) -> Colour:
    """The colour of a hue, lightness and saturation in [0, 1]; lightness is limited to [0.04, 0.96]."""
    return tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue % 1, min(max(light, 0.04), 0.96), depth))


def choose_look(rng: Random) -> SimpleNamespace:
    """What does not depend on the kind: colours, markings, expression, and which way the face looks."""
    dark, bright = rng.uniform(0.1, 0.4), rng.uniform(0.6, 0.9)
    coat, ground = (dark, bright) if rng.random() < 0.5 else (bright, dark)
    away = 1 if coat < 0.5 else -1  # the direction of lightness in which details show on the coat
    hue = rng.uniform(0.02, 0.13) if rng.random() < 0.5 else rng.random()  # half of them natural
    depth = rng.uniform(0.1, 0.7)
    fur = tone(hue, coat, depth)
    patch = tone(hue + rng.uniform(-0.05, 0.05), coat + rng.uniform(0.12, 0.25) * away, depth)
    return SimpleNamespace(
        ground=ground,  # lightness
        fur=fur,
        patch=patch,
        ear=patch if rng.random() < 0.4 else fur,
        edge=tone(hue, coat + 0.3 * away, depth) if rng.random() < 0.7 else None,
        ink=tone(hue, coat + 0.6 * away, depth / 2),
        muzzle=tone(hue, coat + rng.uniform(0.1, 0.2) * away, depth / 2),
        rose=tone(rng.uniform(0.93, 1.02), rng.uniform(0.5, 0.75), 0.6),
        iris=tone(rng.choice((0.08, 0.13, 0.25, 0.33, 0.55)), rng.uniform(0.5, 0.7), 0.7),
        collar=tone(rng.random(), rng.uniform(0.3, 0.7), 0.8) if rng.random() < 0.5 else None,
        marking=rng.choice(("none", "spot", "stripes", "blaze")),
        asleep=rng.random() < 0.15,
        tongue=rng.random() < 0.4,
        side=rng.choice((-1, 1)),  # -1 left or 1 right, of what is on one side only
        turn=(rng.uniform(-0.15, 0.15), rng.uniform(-0.06, 0.08)),  # how far the face slides over the head
        tips=[(rng.uniform(-0.12, 0.12), rng.uniform(-0.15, 0.15)) for _ in range(2)],  # of the ears, moved
    )


def draw_ground(canvas: ImageDraw.ImageDraw, size: list[int], light: float, rng: Random) -> None:
    """Draws a background of two similar tones, plain or patterned, with random triangles and ovals on it."""
    (width, height), hue, depth = size, rng.random(), rng.uniform(0, 0.6)
    tones = [tone(hue + rng.uniform(-0.1, 0.1), light + rng.uniform(-0.1, 0.1), depth) for _ in range(2)]
    reach, angle = math.hypot(width, height) / 2, rng.uniform(0, math.pi)
    x, y = reach * math.cos(angle), reach * math.sin(angle)
    page = Pen(canvas, x, -y, width / 2, y, x, height / 2)  # -1 to 1 covers the picture at any angle
    pattern, bands = rng.choice(("plain", "gradient", "stripes", "blobs")), rng.randint(6, 24)
    for i in range(bands):
        share = {"gradient": i / bands, "stripes": i % 2}.get(pattern, 0)
        mix = tuple(round(a + (b - a) * share) for a, b in zip(*tones, strict=True))
        page.shape([(-1, 2 * i / bands - 1), (1, 2 * i / bands - 1), (1, 1), (-1, 1)], mix)
    if pattern == "blobs":
        for _ in range(bands):
            page.shape(oval(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.03, 0.2), 0.1), tones[1])
    for _ in range(rng.randint(0, 8)):
        (x, y), start = (rng.uniform(-1, 1) for _ in range(2)), rng.uniform(0, 360)
        ring = oval(x, y, rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2), start, start + 360)
        colour = tone(rng.random(), light + rng.uniform(-0.25, 0.25), rng.uniform(0.1, 0.7))
        page.shape(ring[::8] if rng.random() < 0.5 else ring, colour)


def place(size: list[int], rng: Random) -> tuple[float, ...]:
    """A random pen matrix for an animal near the middle: scaled, sheared, tilted by up to 30 degrees."""
    unit, stretch = min(size) * rng.uniform(0.2, 0.34), rng.uniform(0.88, 1.14)
    across, down, shear = unit * stretch, unit / stretch, rng.uniform(-0.12, 0.12)
    x, y = (side / 2 + rng.uniform(-0.1, 0.1) * min(size) for side in size)
    tilt = math.radians(rng.uniform(-30, 30))
    cos, sin = math.cos(tilt), math.sin(tilt)
    return across * cos, down * (shear * cos - sin), x, across * sin, down * (shear * sin + cos), y


def draw_marking(face: Pen, look: SimpleNamespace) -> None:
    if look.marking == "spot":
        face.shape(oval(0.36 * look.side, -0.12, 0.3, 0.36), look.patch)
    elif look.marking == "blaze":
        face.shape(mirrored(BLAZE), look.patch)
    elif look.marking == "stripes":
        for x in (-0.2, 0, 0.2):
            face.line([(x, -0.7), (0.8 * x, -0.42)], look.patch, 0.09)


def draw_cat(pen: Pen, look: SimpleNamespace) -> None:
    """Pointed ears, wide cheeks, almond eyes with slits, a small nose, whiskers."""
    for side, (x, y) in zip((1, -1), look.tips, strict=True):
        ear = [(0.2, -0.6), (0.82 + x, -1.42 + y), (0.95, -0.1)]
        pen.shape(flip(ear, side), look.ear, look.edge)
        pen.shape(flip([(0.28 + 0.55 * px, 0.55 * py - 0.34) for px, py in ear], side), look.muzzle)
    pen.shape(mirrored(CAT_HEAD), look.fur, look.edge)
    face = pen.moved(*look.turn)
    draw_marking(face, look)
    if look.tongue:
        face.shape(oval(0, 0.58, 0.12, 0.17), look.rose)
    for side in (-1, 1):
        face.shape(oval(0.17 * side, 0.4, 0.24, 0.18), look.muzzle)
        face.line(oval(0.12 * side, 0.4, 0.12, 0.11, 0, 180), look.ink, 0.04)
        for lift in (-0.14, 0.02, 0.18):
            face.line([(0.3 * side, 0.38 + lift / 3), (1.2 * side, 0.3 + 1.4 * lift)], look.ink, 0.035)
        if look.asleep:
            face.line(oval(0.42 * side, -0.1, 0.2, 0.12, 0, 180), look.ink, 0.06)
        else:
            face.shape(flip(smooth(ALMOND), side), look.iris)
            face.shape(oval(0.43 * side, -0.09, 0.075, 0.155), PUPIL)
            face.shape(oval(0.4 * side, -0.15, 0.035, 0.04), GLINT)
    face.shape([(-0.12, 0.22), (0.12, 0.22), (0, 0.36)], look.ink)


def draw_dog(pen: Pen, look: SimpleNamespace) -> None:
    """Hanging ears, a long head, round eyes, a big muzzle with a big nose."""
    pen.shape(mirrored(DOG_HEAD), look.fur, look.edge)
    for side, (x, y) in zip((1, -1), look.tips, strict=True):
        ear = [(0.3, -0.78), (0.72, -0.84), (1.07 + x, -0.2), (1.1 + x, 0.48 + y), (0.9 + x, 0.66 + y)]
        pen.shape(flip(smooth([*ear, (0.74, 0.3), (0.62, -0.3)]), side), look.ear, look.edge)
    face = pen.moved(*look.turn)
    draw_marking(face, look)
    if look.tongue:
        face.shape(oval(0.04 * look.side, 0.9, 0.15, 0.25), look.rose)
    face.shape(mirrored(DOG_MUZZLE), look.muzzle)
    face.line([(0, 0.4), (0, 0.66)], look.ink)
    face.line(oval(0, 0.56, 0.26, 0.14, 10, 170), look.ink)
    face.shape(oval(0, 0.28, 0.24, 0.17), look.ink)
    for side in (-1, 1):
        if look.asleep:
            face.line(oval(0.33 * side, -0.16, 0.16, 0.12, 180, 360), look.ink, 0.06)
        else:
            face.shape(oval(0.33 * side, -0.16, 0.16, 0.18), look.iris)
            face.shape(oval(0.33 * side, -0.15, 0.1, 0.115), PUPIL)
            face.shape(oval(0.3 * side, -0.19, 0.035, 0.04), GLINT)


def draw(kind: str, rng: Random) -> Image.Image:
    """One picture of a "cat" or a "dog": RGB, sides of 90 to 320 pixels, landscape or portrait."""
    long = rng.randint(140, 320)
    size = [ZOOM * long, ZOOM * max(90, round(long * rng.uniform(0.65, 1)))]
    rng.shuffle(size)
    look = choose_look(rng)
    image = Image.new("RGB", size)
    canvas = ImageDraw.Draw(image)
    draw_ground(canvas, size, look.ground, rng)
    pen = Pen(canvas, *place(size, rng))
    pen.shape(oval(0, 1.6, 0.8, 1.1), look.fur, look.edge)  # the body, partly covered by the head
    if look.collar:
        pen.shape(oval(0, 0.98, 0.52, 0.2), look.collar)
    {"cat": draw_cat, "dog": draw_dog}[kind](pen, look)
    return image.reduce(ZOOM)


def write(root: Path, seed: int = 0, train_per_class: int = 300, test: int = 60) -> None:
    """Writes `root`/train/cat.0.jpg, dog.0.jpg, ... and, without labels, `root`/test1/1.jpg, 2.jpg, ...

    Writes all of it or nothing, and nothing if `root`/train exists. A picture depends on the seed and on its
    own name, not on how many others are drawn.

    Raises:
        OSError: `root` cannot be written.
    """
    root = Path(root)
    if (root / "train").is_dir():
        return
    pictures = [(kind, f"train/{kind}.{num}") for num in range(train_per_class) for kind in KINDS]
    for num in range(1, test + 1, 2):  # test pictures come in pairs, one of each kind, in random order
        pair = Random(f"{seed}/test1/{num}/order").sample(KINDS, 2)
        pictures += [(kind, f"test1/{num + i}") for i, kind in enumerate(pair) if num + i <= test]
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        new = Path(scratch, root.name)
        for part in ("train", "test1"):
            (new / part).mkdir(parents=True)
        for kind, name in pictures:
            rng = Random(f"{seed}/{name}")
            draw(kind, rng).save(new / f"{name}.jpg", quality=rng.randint(70, 95))
        root.mkdir(exist_ok=True)
        for part in ("test1", "train"):  # train is last: if it exists, all is there
            try:
                os.rename(new / part, root / part)
            except OSError:
                if not (root / part).is_dir():  # if it is, another process was first
                    raise
