"""ConsistI2V of a published folder of small parts, run by YAML files with the original's keys."""
import json
from pathlib import Path

from tests.engines.tiny import write_yaml
from tests.models.consisti2v import write_folder
from tests.numbered import numbered_frames
from tools import media
from tools.registry import load_components

SIDE, FRAMES = 16, 4


class Small:
    """A published folder, a picture, clips with a WebVid list, and YAML files.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path):
        load_components()
        self.folder = folder
        self.model = write_folder(folder / "model")
        self.picture = media.write_png(folder / "first frame.png", numbered_frames([333])[0])
        media.write_video(folder / "a.mp4", numbered_frames(range(60)), 8)
        media.write_video(folder / "b.mp4", numbered_frames(range(500, 540)), 8)
        records = [{"text": text, "file": file} for text, file in (("do", "a.mp4"), ("da", "b.mp4"))]
        (folder / "webvid.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def sampling(self, folder: Path, sampling: dict | None = None, frameinit: dict | None = None, **changes) -> str:
        """YAML with the original's sections for sampling; it writes below `folder/runs`."""
        return write_yaml(folder / "inference.yaml", {
            "TASK_TYPE": "inference_consisti2v_entrance", "output_dir": str(folder / "runs"), "output_name": None,
            "pretrained_model_path": str(self.model), "device": "cpu",
            "sampling_kwargs": {"height": SIDE, "width": SIDE, "n_frames": FRAMES, "steps": 3, "ddim_eta": 0.0,
                                "guidance_scale_txt": 7.5, "guidance_scale_img": 1.0, "guidance_rescale": 0.0,
                                "num_videos_per_prompt": 1, "frame_stride": 3, **(sampling or {})},
            "unet_additional_kwargs": {"variant": None, "n_temp_heads": 4, "noise_sampling_method": "pyoco_mixed",
                                       "noise_alpha": 1.0},
            "frameinit_kwargs": {"enable": True, "camera_motion": None, "noise_level": 850,
                                 "filter_params": {"method": "gaussian", "d_s": 0.25, "d_t": 0.25},
                                 **(frameinit or {})},
            "prompt": "do", "path_to_first_frame": str(self.picture), "seed": 3} | changes)

    def training(self, folder: Path, name: str = "train.yaml", data: dict | None = None, **changes) -> str:
        """YAML with the original's keys for training; it writes below `folder/runs`."""
        return write_yaml(folder / name, {
            "TASK_TYPE": "train_consisti2v_entrance", "output_dir": str(folder / "runs"), "device": "cpu",
            "pretrained_model_path": str(self.model), "num_workers": 0, "tensorboard": False, "log_interval": 1,
            "train_data": {"dataset": "joint", "sample_size": SIDE, "sample_stride": [1, 5], "sample_n_frames": FRAMES,
                           "webvid_config": {"enable": True, "json_path": str(self.folder / "webvid.jsonl"),
                                             "video_folder": str(self.folder)},
                           "pexels_config": {"enable": False, "json_path": None, "caption_json_path": None,
                                             "video_folder": None}, **(data or {})},
            "trainable_modules": ["all"], "cfg_random_null_text_ratio": 0.3, "cfg_random_null_img_ratio": 0.3,
            "unet_additional_kwargs": {"noise_sampling_method": "pyoco_mixed", "noise_alpha": 1.0},
            "learning_rate": 1e-3, "train_batch_size": 2, "gradient_accumulation_steps": 1, "max_grad_norm": 0.5,
            "max_train_steps": 5, "max_train_epoch": -1, "checkpointing_epochs": -1, "checkpointing_steps": 2,
            "validation_steps": 1000, "use_ema": True, "ema_decay": 0.9999, "mixed_precision": "no", "seed": 42,
            "enable_xformers_memory_efficient_attention": True, "is_image": False, "is_debug": False} | changes)
