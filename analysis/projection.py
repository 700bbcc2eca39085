"""The two directions in which features differ most: principal component analysis, in constant memory."""

import numpy as np

EXTRA, ROUNDS = 6, 12  # directions beside the two that are sought; passes over the rows
CHUNK = 2**21  # numbers at a time


def project(rows: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The rows on their first two principal components, by subspace iteration (Halko et al. 2011, arXiv:0909.4061).

    A direction's largest entry is positive, so that the same rows give the same map.

    Args:
        rows: (N, D) float32, which may be mapped from a file.

    Returns:
        (N, 2) float64, and the part of the variance that each direction has, in [0, 1].
    """
    count, size = rows.shape
    step = max(CHUNK // size, 1)
    chunks = [slice(start, start + step) for start in range(0, count, step)]
    mean = sum(rows[chunk].sum(axis=0, dtype=np.float64) for chunk in chunks) / count
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, min(2 + EXTRA, size))))[0]
    for _ in range(ROUNDS):
        image = sum(centred.T @ (centred @ basis) for centred in (rows[chunk] - mean for chunk in chunks))
        basis = np.linalg.qr(image)[0]
    inside = np.concatenate([(rows[chunk] - mean) @ basis for chunk in chunks])
    _, _, turned = np.linalg.svd(inside, full_matrices=False)
    directions = np.zeros((size, 2))
    directions[:, : min(len(turned), 2)] = basis @ turned[:2].T
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.where(directions[largest, [0, 1]] < 0, -1, 1)
    points = inside @ (basis.T @ directions)
    total = sum(((rows[chunk] - mean) ** 2).sum() for chunk in chunks)
    return points, [float(part) for part in (points**2).sum(axis=0) / max(total, np.finfo(float).tiny)]
