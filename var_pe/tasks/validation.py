"""What validating needs: a split shared out over processes, the quality of a reconstruction."""

from accelerate import Accelerator
from torch import Tensor

Box = tuple[int, int, int, int]


def shares(length: int, size: int, accelerator: Accelerator) -> list[range]:
    """Ranges of at most `size` indices below `length`: this process's every n-th of them."""
    starts = range(accelerator.process_index * size, length, accelerator.num_processes * size)
    return [range(start, min(start + size, length)) for start in starts]


def psnr(reconstruction_BCHW: Tensor, images_BCHW: Tensor, content: Box) -> Tensor:
    """Peak signal-to-noise ratio (dB) of each image in [-1, 1], over the box (top, left, height, width)."""
    top, left, height, width = content
    area = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    error_B = ((reconstruction_BCHW.float()[area] - images_BCHW.float()[area]) / 2).square().mean((1, 2, 3))
    return -10 * error_B.clamp(min=1e-10).log10()
