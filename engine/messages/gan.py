"""What the terminal says of a GAN."""

from engine.messages import Messages, Metrics

COLLAPSED, ONE_SIDED = 0.2, 0.5  # of the real images' mean difference, and spread


class GanMessages(Messages):
    def epoch(self, means: Metrics, metrics: Metrics) -> list[str]:
        """The losses of generator (G) and discriminator (D), distance and variety."""
        losses = [f"{name[0].upper()} {means[f'{name}_loss']:.3f}" for name in ("generator", "discriminator")]
        return [*losses, f"distance {metrics['distance']:.3g}", f"variety {metrics['variety']:.2f}"]

    def table(self, metrics: Metrics) -> str:
        warning = self.diagnose({}, metrics, 1)
        return "\n".join([*self._scalars(metrics, ".4g", width=18), *([warning] if warning else [])])

    def format_score(self, name: str, value: float) -> str:
        return f"{'Fréchet distance' if name == 'distance' else name.replace('_', ' ')} {value:.3g}"

    def next_commands(self, folder: str) -> list[str]:
        return [*super().next_commands(folder), f"python main.py generate --load-path={folder}"]

    def diagnose(self, means: Metrics, metrics: Metrics, progress: float) -> str | None:
        if metrics["variety"] < COLLAPSED:
            sign = f"two of its images differ {metrics['variety']:.2f} times as much as two real ones"
        elif metrics.get("spread", 1) < ONE_SIDED * metrics.get("real_spread", 1):
            sign = f"it makes images of few of the classifier's classes: spread {metrics['spread']:.2f}"
        else:
            return None
        remedies = "more epochs, a smaller --batch-size, --d-shift=12 (for few images), a lower --lr2"
        return f"the generator has collapsed: {sign}. What may help: {remedies}"
