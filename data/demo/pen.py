"""Curves, and a pen that draws them on a canvas at any place, size and tilt."""

import math

from PIL import ImageDraw

Points = list[tuple[float, float]]
Colour = tuple[int, ...]  # RGB, 0 to 255
THIN = 2  # pixels, the smallest width of a line


def flip(points: Points, side: int) -> Points:
    """The points on the right (1) or mirrored to the left (-1)."""
    return [(side * x, y) for x, y in points]


def smooth(corners: Points, steps: int = 6) -> Points:
    """A closed Catmull-Rom curve through `corners`, `steps` points from each to the next."""
    curve = []
    for i in range(len(corners)):
        near = [corners[(i + k) % len(corners)] for k in (-1, 0, 1, 2)]
        for t in (step / steps for step in range(steps)):
            x, y = (
                q + t / 2 * (r - p + t * (2 * p - 5 * q + 4 * r - s + t * (3 * q - 3 * r + s - p)))
                for p, q, r, s in zip(*near, strict=True)
            )
            curve.append((x, y))
    return curve


def mirrored(half: Points) -> Points:
    """The smooth closed outline whose right half is `half`, given from top to bottom."""
    return smooth(half + flip(half[-2:0:-1], -1))


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """An ellipse around (x, y), or its arc from `start` to `stop` degrees: 0 is right, 90 is down."""
    angles = [math.radians(start + (stop - start) * i / 24) for i in range(25)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


class Pen:
    """Draws on a canvas in transformed coordinates: (x, y) is the pixel (a*x + b*y + c, d*x + e*y + f)."""

    def __init__(self, canvas: ImageDraw.ImageDraw, *matrix: float) -> None:
        self.canvas, self.matrix = canvas, matrix
        a, b, _, d, e, _ = matrix
        self.unit = math.sqrt(abs(a * e - b * d))  # pixels per length of 1

    def pixels(self, points: Points) -> Points:
        a, b, c, d, e, f = self.matrix
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def line(self, points: Points, colour: Colour, width: float = 0.05) -> None:
        self.canvas.line(self.pixels(points), colour, max(THIN, round(width * self.unit)), joint="curve")

    def shape(self, points: Points, colour: Colour, edge: Colour | None = None) -> None:
        self.canvas.polygon(self.pixels(points), colour)
        if edge:
            self.line(points + points[:2], edge, 0.06)

    def moved(self, x: float, y: float) -> "Pen":
        """The same pen with its origin at (x, y)."""
        (c, f), (a, b, _, d, e, _) = self.pixels([(x, y)])[0], self.matrix
        return Pen(self.canvas, a, b, c, d, e, f)
