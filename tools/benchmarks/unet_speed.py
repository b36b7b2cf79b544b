"""Speed of our I2VGen-XL UNet beside diffusers', with the same weights: `python -m tools.benchmarks.unet_speed`.

Both networks get the same inputs in turn, so that whatever else the machine does slows both. Reported are the median
time of one forward pass of each and their ratio (above 1: ours is faster), the floating-point operations of both
(counted by PyTorch), how much of the machine's measured matrix-product rate each reaches, and the time of a later
denoising step of ours, where the condition cache saves work. `--tiny` shrinks the networks to a few seconds.
"""
import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tools.models.diffusers_keys import to_diffusers
from tools.models.i2vgen import UNetSD_I2VGen

HEADS_OF_FIRST = 8  # fixed in diffusers
MATMUL_SIZE = 2048
PUBLISHED = {"dim": 320, "head_dim": 64, "context_dim": 1024}
TINY = {"dim": 32, "head_dim": 16, "context_dim": 64}


def build_pair(dim: int, head_dim: int, context_dim: int) -> tuple[nn.Module, nn.Module]:
    """Our UNet and diffusers' I2VGenXLUNet with equal weights, in evaluation mode."""
    from diffusers import I2VGenXLUNet

    ours = UNetSD_I2VGen(in_dim=4, dim=dim, y_dim=context_dim, context_dim=context_dim, out_dim=4,
                         dim_mult=(1, 2, 4, 4), num_heads=HEADS_OF_FIRST, head_dim=head_dim, num_res_blocks=2,
                         attn_scales=(1, 0.5, 0.25))
    theirs = I2VGenXLUNet(in_channels=4, out_channels=4, block_out_channels=[dim * m for m in ours.dim_mult],
                          layers_per_block=2, cross_attention_dim=context_dim, attention_head_dim=head_dim)
    # A fresh network's zero-initialised layers would silence its branches and hide a difference.
    for parameter in ours.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    theirs.load_state_dict(to_diffusers("UNetSD_I2VGen", ours.state_dict()))
    return ours.eval(), theirs.eval()


def make_calls(ours: nn.Module, theirs: nn.Module, frames: int, size: int,
               generator: torch.Generator) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The two forward passes on the same inputs: latents [1, 4, frames, size, size], 77 text tokens, one picture."""
    width = ours.context_dim
    x, latent = (torch.randn(shape, generator=generator) for shape in ((1, 4, frames, size, size), (1, 4, size, size)))
    y, image = (torch.randn(1, n, width, generator=generator) for n in (77, 1))
    t, fps = torch.tensor([500]), torch.tensor([8])
    planes = (torch.arange(frames) / max(frames - 1, 1)).view(1, 1, -1, 1, 1).repeat(1, 4, 1, size, size)
    planes[:, :, 0] = latent
    return (lambda: ours(x, t, y=y, image=image, local_image=latent, fps=fps),
            lambda: theirs(x, t, fps=fps, image_latents=planes, image_embeddings=image, encoder_hidden_states=y).sample)


def seconds(call: Callable) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def matmul_rate(repeats: int = 5) -> float:
    """Floating-point operations per second of the fastest of some large float32 matrix products."""
    a, b = torch.rand(2, MATMUL_SIZE, MATMUL_SIZE)
    return 2 * MATMUL_SIZE**3 / min(seconds(lambda: a @ b) for _ in range(repeats + 1))


def flops(call: Callable) -> int:
    """Floating-point operations of the matrix products and convolutions of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.no_grad()
def compare(sizes: dict[str, int], frames: int, size: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Measure; returns the figures that `report` prints (times in seconds, work in operations)."""
    torch.manual_seed(seed)
    ours, theirs = build_pair(**sizes)
    run_ours, run_theirs = make_calls(ours, theirs, frames, size, torch.Generator().manual_seed(seed))
    out, expected = run_ours(), run_theirs()
    run_theirs(), run_ours()
    times = [(seconds(run_ours), seconds(run_theirs)) for _ in range(repeats)]
    with ours.condition_cache():
        run_ours()
        later = [seconds(run_ours) for _ in range(repeats)]
    return {
        "difference": ((out - expected).abs().max() / expected.abs().max()).item(),
        "ours": statistics.median(a for a, _ in times), "diffusers": statistics.median(b for _, b in times),
        "ratio": statistics.median(b / a for a, b in times), "later_step": statistics.median(later),
        "flops_ours": flops(run_ours), "flops_diffusers": flops(run_theirs), "matmul_rate": matmul_rate(),
    }


def report(figures: dict[str, float], frames: int, size: int) -> str:
    """The figures as a few lines of text."""
    rate = figures["matmul_rate"]
    lines = [f"UNetSD_I2VGen, {frames} frames of {size}x{size} latents, float32, {torch.get_num_threads()} threads; "
             f"matrix products reach {rate / 1e9:.1f} GFLOP/s here"]
    for name in ("ours", "diffusers"):
        work, taken = figures[f"flops_{name}"], figures[name]
        lines.append(f"{name:10} {taken:8.3f} s  {work / 1e9:8.1f} GFLOP  {work / taken / rate:6.1%} of that rate")
    lines.append(f"later step {figures['later_step']:8.3f} s  (ours, conditions remembered)")
    lines.append(f"ratio diffusers / ours {figures['ratio']:.3f}; largest relative difference of the outputs "
                 f"{figures['difference']:.1e}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small networks, a few seconds")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=None, help="height and width of the latents (32; tiny: 16)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="threads of PyTorch (all cores)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    size = options.size or (16 if options.tiny else 32)
    print(report(compare(TINY if options.tiny else PUBLISHED, options.frames, size, options.repeats),
                 options.frames, size))


if __name__ == "__main__":
    main()
