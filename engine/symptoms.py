"""What `--watch` calls sick: layers that died, layers that no gradient reaches, rates far out of range."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from utils.text import few

IMAGES, STEPS = 100, 3  # that must have been watched before there is a verdict
# A unit that answers to 5% of the images is silent for 100 of them in 0.6% of cases. CS231n (neural-networks-1, "ReLU")
# finds up to 40% dead where the rate is too high.
DEAD = 0.5
# About 1e-3 is usual (CS231n, neural-networks-3, "Ratio of weights:updates").
LOW, HIGH = 1e-6, 0.5
SHOWN = 3  # layers in a line


class Symptoms:
    """Collects watched steps until there are enough of them for a verdict."""

    def __init__(self) -> None:
        self.dead_since: dict[str, int] = {}
        self.highest = 0.0
        self._restart()

    def _restart(self) -> None:
        self.images, self.low_rate = 0, False
        self.entries: list[dict[str, list]] = []
        self.alive: dict[str, torch.Tensor] = {}

    def add(
        self, step: int, images: int, rate: float, values: dict[str, list], alive: dict[str, torch.Tensor | None]
    ) -> None:
        """One watched step.

        Args:
            rate: the learning rate. values: the step's entry of the record.
            alive: for each layer (units,) bool, whether the unit gave anything but 0.
        """
        self.images += images
        self.entries.append(values)
        self.highest = max(self.highest, rate)
        self.low_rate |= rate < self.highest / 10  # as a schedule wants it: then small updates are no symptom
        for name, mask in alive.items():
            if mask is not None and mask.shape == self.alive.setdefault(name, mask).shape:
                self.alive[name] = self.alive[name] | mask
        for name, share in zip(values["layers"], values["dead"], strict=True):
            if share is not None and share > DEAD:
                self.dead_since.setdefault(name, step)
            else:
                self.dead_since.pop(name, None)

    def verdict(self) -> str | None:
        """A line about what is clearly sick; None where nothing is, or too few steps were watched."""
        if self.images < IMAGES or len(self.entries) < STEPS:
            return None
        signs = [*self._dead(), *self._cut(), *self._rates()]
        self._restart()
        return "; ".join(signs) or None

    def _dead(self) -> list[str]:
        shares = {name: 1 - mask.float().mean().item() for name, mask in self.alive.items()}
        return [
            f"{name}: {share:.0%} of units dead since step {self.dead_since[name]} (0 for all images watched)"
            for name, share in shares.items()
            if share > DEAD and name in self.dead_since
        ][:SHOWN]

    def _cut(self) -> list[str]:
        names = self._where(lambda e, i: e["activation"][i] is not None and e["update"][i] is None)
        zero = self._where(lambda e, i: e["gradient"][i] == 0)
        return [
            f"no gradient reaches {few(some)}{why}"
            for some, why in ((names, ", which the net uses: does a detach cut it off?"), (zero, ": all of it is 0"))
            if some
        ]

    def _where(self, holds: Callable[[dict[str, Any], int], bool]) -> list[str]:
        """The layers of which something holds in each entry."""
        sets = [{name for i, name in enumerate(e["layers"]) if holds(e, i)} for e in self.entries]
        return [name for name in self.entries[0]["layers"] if all(name in found for found in sets)]

    def _rates(self) -> list[str]:
        ratios: dict[str, list[float]] = {}
        for entry in self.entries:
            for name, ratio in zip(entry["layers"], entry["update"], strict=True):
                if ratio:  # frozen ones have 0
                    ratios.setdefault(name, []).append(ratio)
        medians = {name: statistics.median(values) for name, values in ratios.items()}
        if not medians:
            return []
        name = max(medians, key=lambda name: medians[name])
        if medians[name] > HIGH:
            return [f"{name}: a step changes its weights by {medians[name]:.0%}: the learning rate is too high"]
        if not self.low_rate and medians[name] < LOW:
            return [
                f"a step changes the weights by {medians[name]:.1g} of their size at most: the learning rate is too low"
            ]
        return []
