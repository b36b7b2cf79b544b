"""ConsistI2V (arXiv 2402.04324): Stable Diffusion's UNet with temporal layers that look at the first frame."""
from tools.models.consisti2v import unet  # noqa: F401 - registers the network
