"""Colour profiles (ICC.1:2001-04), built by hand: a matrix with gamma, grey with gamma, ink by a table."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
SRGB_PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]  # adapted to D50
ADOBE_PRIMARIES = [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)]


def _fixed(value):
    return struct.pack(">i", round(value * 65536))


def _xyz(values):
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def _text(kind, words):
    if kind == b"text":
        return b"text\0\0\0\0" + words + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + bytes(78)


def _profile(space, device, tags, pcs=b"XYZ "):
    tags = {b"desc": _text(b"desc", b"a test"), b"cprt": _text(b"text", b"none"), b"wtpt": _xyz(D50)} | tags
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, device, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(gamma, primaries=SRGB_PRIMARIES):
    """Of a screen of this gamma and these primaries."""
    names = zip((b"r", b"g", b"b"), primaries, strict=True)
    tags = {name + kind: data for name, xyz in names for kind, data in ((b"XYZ", _xyz(xyz)), (b"TRC", _gamma(gamma)))}
    return _profile(b"RGB ", b"mntr", tags)


def grey_profile(gamma):
    return _profile(b"GRAY", b"mntr", {b"kTRC": _gamma(gamma)})


def ink_profile(lightness):
    """A printer on whose paper each corner of the ink cube (c, m, y, k in 0, 1) is a neutral grey.

    Args:
        lightness: a function of (c, m, y, k) to L*, 0 to 100.
    """
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = bytes(v for corner in corners for v in (round(lightness(*corner) * 2.55), 128, 128))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + b"".join(_fixed(v) for v in np.eye(3).flat) + ramp * 4 + table
    return _profile(b"CMYK", b"prtr", {b"A2B0": lut + ramp * 3}, pcs=b"Lab ")
