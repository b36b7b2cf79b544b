"""VideoLCM (arXiv 2312.09109): the network of TF-T2V, distilled for few steps."""
from tools.models.tft2v import UNetSD_TFT2V
from tools.models.unet import COMMON_IGNORED
from tools.registry import MODEL


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "black_image_feature", "use_lcm"))
class UNetSD_VideoLCM(UNetSD_TFT2V):
    """Few-step UNet; parameters, arguments and conditions as `UNetSD_TFT2V`.

    Training never drops the text. Published weights know nothing of the guidance `t_w` that they were distilled with:
    it is one constant. `guidance_embedding` builds the layer that the paper describes.
    """

    drops_text = False
