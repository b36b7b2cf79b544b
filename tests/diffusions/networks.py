"""Small closed-form networks for the tests of the diffusion processes."""
import torch


class Recorder:
    """A smooth network of x, t and y that remembers the shapes and times of its calls.

    Args:
        learned_variance: put out twice the channels.
    """

    def __init__(self, learned_variance: bool = False):
        self.learned_variance = learned_variance
        self.calls: list[tuple[torch.Size, torch.Tensor]] = []

    def __call__(self, x, t, y=None, fps=None, image=None):
        self.calls.append((x.shape, t))
        column = (-1,) + (1,) * (x.ndim - 1)
        time = t.to(x.dtype).view(column)
        out = 0.5 * torch.cos(time / 300) * x + 0.1 * torch.tanh(x)
        for condition in (y, image):
            if condition is not None:
                out = out + 0.2 * condition.mean(dim=tuple(range(1, condition.ndim))).view(column)
        return torch.cat([out, torch.tanh(x)], dim=1) if self.learned_variance else out


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
