"""Every top-level key that a YAML file may use: type, default and meaning. The one place where defaults are stated.

Defaults are those of VGen, so that a published file which leaves a key out means what it meant. `None` means "not
set"; `REQUIRED` means that a task which reads the key asks for it. A *section* describes one component: its `type` is
a registered name, its other keys are the arguments of that component's constructor, where they are documented.
`python train_net.py --cfg FILE --print-config` shows the resolved values and where each came from.

To add a key, add a row.
"""
import copy
from dataclasses import dataclass
from typing import Any, Literal


class _Required:
    def __repr__(self):
        return "REQUIRED"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


REQUIRED = _Required()
ORIGIN = "tools/defaults.py"


@dataclass(frozen=True)
class Key:
    """One top-level key.

    Attributes:
        kind: a Python type as an annotation writes it (`int`, `list[float]`, `str | None`, `Literal[...]`).
        default: value when no file and no override gives one; `REQUIRED` when there is none.
        help: one line for readers of this table.
        minimum: least value (of every element, for lists and mappings).
        length: exact number of elements of a list.
        registry: name of the registry that builds the section (`MODEL`); None for plain values.
        unused: the key occurs in published files and never had an effect; accepted, and said so once.
        holds_keys: the value maps names to sections whose keys are top-level keys themselves.
    """

    kind: Any
    default: Any
    help: str
    minimum: float | None = None
    length: int | None = None
    registry: str | None = None
    unused: bool = False
    holds_keys: bool = False


def section(registry: str, default: dict | None, help: str) -> Key:
    """A key that describes a component of `registry`."""
    return Key(dict | None, default, help, registry=registry)


def unused(kind: Any, default: Any = None) -> Key:
    """A key of published files without effect."""
    return Key(kind, default, "no effect, as in VGen", unused=True)


NEGATIVE_PROMPT = ("Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, "
                   "disconnected limbs, Ugly faces, incomplete arms")

COMMAND_LINE = {
    "cfg_file": Key(str, "", "the YAML file of --cfg"),
    "debug": Key(bool, False, "--debug: one process, no process group"),
    "opts": Key(list[str], [], "the override words of the command line"),
    "init_method": unused(str, "tcp://localhost:9999"),
}

RUN = {
    "TASK_TYPE": Key(str, REQUIRED, "registered task (ENGINE), e.g. inference_i2vgen_entrance"),
    "imports": Key(list[str], [], "local Python files that register components of your own"),
    "custom": Key(dict, {}, "free section for tasks of your own; its keys are not checked"),
    "log_dir": Key(str, "workspace/temp_dir", "folder that runs write below"),
    "seed": Key(int, 8888, "seed of every random draw", minimum=0),
    "use_random_seed": Key(bool, False, "draw the seed from 0..10000 and log it"),
    "device": Key(str, "auto", "auto, cpu, cuda, cuda:1, mps"),
    "precision": Key(Literal["auto", "fp32", "bf16", "fp16"], "auto",
                     "autocast; auto: fp32 on a CPU or without use_fp16, else bf16 where the GPU has it, else fp16"),
    "use_fp16": Key(bool, True, "16-bit autocast on GPUs, where `precision` is auto"),
    "attention_backend": Key(Literal["sdpa", "xformers"], "sdpa", "attention kernels; xformers needs CUDA"),
    "compile": Key(bool, False, "torch.compile the denoiser"),
    "chunk_size": Key(int, 16, "frames per call when the autoencoder encodes", minimum=1),
    "decoder_bs": Key(int, 8, "frames per call when the autoencoder decodes", minimum=1),
}

COMPONENTS = {
    "UNet": section("MODEL", {
        "type": "UNetSD", "in_dim": 4, "dim": 320, "y_dim": 1024, "context_dim": 1024, "out_dim": 8,
        "dim_mult": [1, 2, 4, 4], "num_heads": 8, "head_dim": 64, "num_res_blocks": 2, "attn_scales": [1.0, 0.5, 0.25],
        "dropout": 0.1, "temporal_attention": True, "temporal_attn_times": 1, "use_checkpoint": True,
        "use_fps_condition": False, "use_sim_mask": False,
    }, "the denoiser"),
    "Diffusion": section("DIFFUSION", {
        "type": "DiffusionDDIM", "schedule": "cosine",
        "schedule_param": {"num_timesteps": 1000, "cosine_s": 0.008, "zero_terminal_snr": True},
        "mean_type": "v", "loss_type": "mse", "var_type": "fixed_small", "rescale_timesteps": False,
        "noise_strength": 0.1, "ddim_timesteps": 50,
    }, "the diffusion process; noise_strength is training's offset noise"),
    "auto_encoder": section("AUTO_ENCODER", {
        "type": "AutoencoderKL",
        "ddconfig": {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                     "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
                     "video_kernel_size": [3, 1, 1]},
        "embed_dim": 4, "pretrained": "models/v2-1_512-ema-pruned.ckpt",
    }, "pixels to latents and back (Stable Diffusion 2.1's)"),
    "embedder": section("EMBEDDER", {
        "type": "FrozenOpenCLIPEmbedder", "layer": "penultimate", "pretrained": "models/open_clip_pytorch_model.bin",
    }, "text and image features (OpenCLIP ViT-H-14)"),
    "embedmanager": section("EMBEDMANAGER", None, "textual inversion (DreamVideo)"),
    "noise_init": section("NOISE_INIT", None, "what leads the noise that sampling starts from, e.g. {type: FrameInit}: "
                          "for every method whose video starts from a picture; null for none"),
    "vid_dataset": section("DATASETS", None, "training clips"),
    "img_dataset": section("DATASETS", None, "training images, for ranks with one frame"),
    "vid_reward_dataset": section("DATASETS", None, "training clips (InstructVideo)"),
    "visual_train": section("VISUAL", {"type": "VisualTrainTextImageToVideo"}, "training's previews; null for none"),
    "Pretrain": section("PRETRAIN", {
        "type": "pretrain_specific_strategies", "fix_weight": False, "grad_scale": 0.2,
        "resume_checkpoint": "models/jiuniu_0267000.pth",
        "sd_keys_path": "models/stable_diffusion_image_key_temporal_attention_x1.json",
    }, "how the first weights are put into the denoiser; null to train from scratch"),
}

DATA = {
    "mean": Key(list[float], [0.5, 0.5, 0.5], "pixel normalisation: (pixel - mean) / std", length=3),
    "std": Key(list[float], [0.5, 0.5, 0.5], "pixel normalisation", length=3),
    "vit_mean": Key(list[float], [0.48145466, 0.4578275, 0.40821073], "the image encoder's normalisation", length=3),
    "vit_std": Key(list[float], [0.26862954, 0.26130258, 0.27577711], "the image encoder's normalisation", length=3),
    "resolution": Key(list[int], [448, 256], "[width, height] of videos, multiples of 8 pixels", minimum=8, length=2),
    "vit_resolution": Key(list[int], [224, 224], "[width, height] of the image encoder's input", minimum=1, length=2),
    "frame_lens": Key(list[int], [32, 32, 32, 1], "frames per clip, one entry per rank in turn; 1: images", minimum=1),
    "sample_fps": Key(list[int] | int, [4], "frame rate at which clips are sampled, per rank in turn", minimum=1),
    "batch_sizes": Key(dict[str, int], {"1": 256, "4": 4, "8": 4, "16": 4}, "batch size per rank by number of frames",
                       minimum=1),
    "num_workers": Key(int, 8, "processes that load data, per rank", minimum=0),
    "prefetch_factor": Key(int | None, 2, "batches that each of them prepares in advance", minimum=1),
    "shuffle": Key(bool, True, "another order of the training data in every epoch; false: the list's, always"),
    "cache_latents": Key(int, 0, "keep the latents of that many samples in memory; 0: encode every batch", minimum=0),
    "scale_factor": Key(float, 0.18215, "latents are multiplied by this after encoding"),
    "scale": Key(int, 8, "pixels per latent along width and height", minimum=1),
}

TRAINING = {
    "num_steps": Key(int, 600000, "last optimiser step", minimum=0),
    "lr": Key(float, 5e-5, "peak learning rate of AdamW", minimum=0),
    "weight_decay": Key(float, 0.0, "the optimiser's", minimum=0),
    "optimizer": Key(Literal["adamw", "adafactor"], "adamw", "adafactor keeps far less state (arXiv 1804.04235)"),
    "lora_rank": Key(int, 0, "train LoRA pairs of that rank in every attention and fix the weights; 0: no LoRA",
                     minimum=0),
    "lora_alpha": Key(float | None, None, "their factor is lora_alpha / lora_rank; not set: 1"),
    "lora_start": Key(str | None, None, "LoRA file that the pairs start from; not set: silent pairs"),
    "adam_beta1": Key(float, 0.9, "AdamW's", minimum=0),
    "adam_beta2": Key(float, 0.999, "AdamW's", minimum=0),
    "adam_epsilon": Key(float, 1e-8, "AdamW's", minimum=0),
    "trainable_modules": Key(list[str] | None, None,
                             "train parameters with one of these in their names, or all; not set: Pretrain decides"),
    "warmup_steps": Key(int, 10, "steps of linear warm-up", minimum=0),
    "decay_mode": Key(Literal["cosine", "linear", "none"], "cosine", "learning rate after warm-up"),
    "grad_accumulation": Key(int, 1, "batches per optimiser step", minimum=1),
    "grad_clip": Key(float, 0.0, "largest gradient norm; 0: no clipping", minimum=0),
    "use_ema": Key(bool | None, None, "keep an average of the weights; not set: with two devices or more"),
    "ema_decay": Key(float, 0.9999, "of that average, per step", minimum=0),
    "ema_warmup": Key(Literal["diffusers"] | bool, False,
                      "smaller decay in the first steps: min(ema_decay, (1 + n) / (10 + n)); diffusers: a step later"),
    "use_fsdp": Key(bool, False, "shard the model over the ranks; not available, refused when true (DDP is used)"),
    "opti_timesteps": Key(int | None, None, "draw training times below this; not set: all of the schedule", minimum=1),
    "timestep_logit_normal": Key(list[float] | None, None,
                                 "draw training times, as shares of all, by the sigmoid of a normal with this mean and "
                                 "deviation; not set: uniformly", length=2),
    "use_div_loss": Key(bool, False, "add the diversity term to the loss"),
    "p_zero": Key(float, 0.9, "probability that training replaces the text by the negative prompt", minimum=0),
    "p_image_zero": Key(float, 0.0, "probability that training drops the image feature", minimum=0),
    "p_local_image_zero": Key(float, 0.0, "probability that training drops the first frame's latents", minimum=0),
    "resume": Key(bool, False, "continue the run folder's last checkpoint"),
    "save_ckp_interval": Key(int, 1000, "steps between checkpoints", minimum=1),
    "keep_checkpoints": Key(int, 0, "keep that many of the latest full checkpoints; 0: all", minimum=0),
    "save_dtype": Key(Literal["fp32", "bf16", "fp16"], "fp32", "number format of the plain weights file"),
    "viz_interval": Key(int, 1000, "steps between previews", minimum=1),
    "eval_interval": Key(int, 0, "steps between evaluations on held-out data, where the task has one; 0: never",
                         minimum=0),
    "log_interval": Key(int, 100, "steps between log lines", minimum=1),
    "tensorboard": Key(bool, True, "write TensorBoard events beside metrics.jsonl"),
}

AUTOENCODER_TRAINING = {
    "crop": Key(int, 0, "side of random square crops in pixels; 0: whole frames", minimum=0),
    "fix_encoder": Key(bool, False, "train the decoder alone, for latents that others have been trained on already"),
    "l1_weight": Key(float, 1.0, "weight of the absolute error", minimum=0),
    "mse_weight": Key(float, 0.0, "weight of the squared error beside the absolute one", minimum=0),
    "initial_logvar": Key(float | None, None, "log variance that the posterior starts with; not set: near 0"),
    "kl_weight": Key(float, 1e-6, "weight of the posterior's divergence from a standard normal", minimum=0),
    "latent_teacher": section("AUTO_ENCODER", None, "autoencoder whose latents the trained one is to share, so that "
                              "denoisers go over from one to the other; null for none"),
    "teacher_scale": Key(int, 8, "pixels along each side of a latent of `latent_teacher`", minimum=1),
    "teacher_weight": Key(float, 1.0, "weight of the squared distance to the latents of `latent_teacher`", minimum=0),
}

SAMPLING = {
    "test_list_path": Key(str, REQUIRED, "list file: one prompt, or image|||prompt, per line"),
    "test_model": Key(str | None, REQUIRED, "checkpoint of the denoiser"),
    "loras": Key(dict[str, float], {}, "LoRA files merged into the denoiser, with their scales: {file: 0.8}; training "
                                       "starts from the merged weights"),
    "few_steps_cfg": Key(str | None, None, "sampling configuration whose consistency model does the same in few steps, "
                                           "for the app; inference.py ignores it"),
    "refine_cfg": Key(str | None, None, "configuration of an inference_sr600 task that refines these videos; for the "
                                        "app, inference.py ignores it"),
    "vldm_cfg": Key(str | None, None, "YAML of the training run; its values stand behind this file's"),
    "max_frames": Key(int, 16, "frames of the video", minimum=1),
    "target_fps": Key(int, 16, "frame rate told to the denoiser", minimum=1),
    "output_fps": Key(int, 8, "frame rate of the written video", minimum=1),
    "round": Key(int, 1, "videos per line of the list", minimum=1),
    "batch_size": Key(int, 1, "prompts denoised together", minimum=1),
    "guide_scale": Key(float | None, 3.0, "classifier-free guidance; null: none"),
    "guide_rescale": Key(float, 0.0, "share of the conditional branch's contrast that is restored after guidance",
                         minimum=0),
    "ddim_timesteps": Key(int, 50, "denoising steps", minimum=1),
    "eta": Key(float, 0.0, "DDIM's share of fresh noise per step: 0 deterministic, 1 ancestral", minimum=0),
    "seeding": Key(Literal["prompt", "sequential"], "prompt",
                   "prompt: noise by each prompt's own seed; sequential: VGen's one stream for the whole list"),
    "batched_guidance": Key(Literal["auto"] | bool, "auto", "conditional and unconditional branch in one forward"),
    "use_zero_infer": Key(bool, False, "unconditional branch gets a zero image feature"),
    "negative_prompt": Key(str, NEGATIVE_PROMPT, "text of the unconditional branch"),
    "positive_prompt": Key(str, "", "appended to every prompt"),
    "noise_strength": Key(float, 0.0, "offset noise of the initial latents (training's: Diffusion.noise_strength)",
                          minimum=0),
}

METHODS = {
    # HiGen, SR600
    "motion_factor": Key(int, 500, "HiGen: amount of motion", minimum=0),
    "appearance_factor": Key(float, 1.0, "HiGen: change of appearance over time", minimum=0),
    "key_frame": Key(Literal["middle", "first"], "middle", "HiGen training: the frame that the first pass draws"),
    "spatial_weight": Key(float, 1.0, "HiGen training: weight of the first pass's loss beside the second's", minimum=0),
    "motion_scale": Key(float, 10000.0, "HiGen training: motion per mean difference of two frames (pixels 0..1)",
                        minimum=0),
    "appearance_range": Key(float, 0.3, "HiGen training: fall of CLIP's similarity that is a complete change",
                            minimum=1e-6),
    "total_noise_levels": Key(int, 700, "SR600: noise level reached by inversion; training draws times below it",
                              minimum=1),
    "double_frames_sr": Key(Literal["auto"] | bool, False,
                            "SR600: refine with every frame repeated; auto: where the video has 16 frames or fewer"),
    "refine_dir": Key(str | None, None, "SR600: folder of an earlier run, all videos of which are refined; else "
                                        "test_list_path has video|||caption, or the earlier run's captions"),
    "sr_resolution": Key(list[int], [1280, 720], "SR600: [width, height] of the result; a video of another shape keeps "
                                                 "its own, at about as many pixels", minimum=8, length=2),
    "sr_frames": Key(int, 32, "SR600: frames that the network sees together; longer videos go in several pieces",
                     minimum=1),
    "sr_steps": Key(int, 30, "SR600: steps of the inversion, and of the denoising", minimum=1),
    "sr_guide_scale": Key(float, 9.0, "SR600: guidance of the denoising"),
    "sr_guide_rescale": Key(float, 0.3, "SR600: share of the contrast restored that guidance adds", minimum=0),
    "sr_eta": Key(float, 1.0, "SR600: fresh noise of the solver; 0: none", minimum=0),
    "sr_start": Key(Literal["inversion", "noise"], "inversion",
                    "SR600: reach total_noise_levels by DDIM inversion, or by adding noise"),
    "sr_degradation": Key(float, 0.0, "SR600 training: share of clips made from pixels at half the size", minimum=0),
    "stages": Key(dict, {}, "cascade: name -> {cfg: YAML, keys that replace its own}, in order", holds_keys=True),
    # ConsistI2V
    "guide_scale_img": Key(float, 1.0, "guidance by the picture, apart from the text's; 1 or less: by text alone"),
    "frame_stride": Key(int, 3, "frames of a source video per frame of the clip, told to the denoiser; trained: 1 to 5",
                        minimum=1),
    "autoregress_steps": Key(int, 1, "clips of a long video, each from the last frame of the one before", minimum=1),
    "camera_motion": Key(str | None, None, "pan_left, pan_right, zoom_in or zoom_out over the picture; null: still"),
    "picture_fit": Key(Literal["cover", "pad", "stretch"], "cover", "first frame: fill the frame and crop; keep the "
                       "height, with black edges where that is too narrow (the original); or out of proportion"),
    "format": Key(Literal["mp4", "gif"], "mp4", "of the videos"),
    "prompt": Key(str | None, None, "one prompt in place of a list"),
    "n_prompt": Key(str, "", "its negative prompt"),
    "path_to_first_frame": Key(str | None, None, "its picture"),
    "prompt_config": Key(str | None, None, "YAML with prompts, n_prompts, path_to_first_frames and seeds, in place of "
                                           "a list"),
    "save_model": Key(bool, False, "write the whole model as a published folder: in sampling at once, else at the end"),
    # ... in its own YAML files; tools/engines/consisti2v_keys.py says what each stands for
    "output_dir": Key(str | None, None, "log_dir"),
    "output_name": Key(str | None, None, "runs get folders of their own, {output_name}-{time}, with grid and settings"),
    "pretrained_model_path": Key(str | None, None, "folder or hub name of a model, whose parts become sections"),
    "pipeline_pretrained_path": Key(str | None, None, "a saved pipeline, in place of pretrained_model_path"),
    "unet_path": Key(str | None, None, "weights that replace the denoiser's: a unet folder, or a file"),
    "unet_ckpt_prefix": Key(str | None, "module.", "removed from the beginning of their names"),
    "sampling_kwargs": Key(dict | None, None, "height, width, n_frames, steps, guidance, ..."),
    "unet_additional_kwargs": Key(dict | None, None, "options over unet/config.json; variant, noise_sampling_method"),
    "noise_scheduler_kwargs": Key(dict | None, None, "Diffusion, type DDIMScheduler"),
    "frameinit_kwargs": Key(dict | None, None, "noise_init, type FrameInit; camera_motion"),
    "train_data": Key(dict | None, None, "vid_dataset, type WebVid10M, Pexels or JointDataset; sizes and frames"),
    "validation_data": Key(dict | None, None, "visual_train, type VisualPrompts"),
    "resume_from_checkpoint": Key(str | None, None, "checkpoint-N folder of the original: its denoiser and step"),
    "cfg_random_null_text_ratio": Key(float | None, None, "p_zero", minimum=0),
    "cfg_random_null_img_ratio": Key(float | None, None, "p_local_image_zero", minimum=0),
    "learning_rate": Key(float | None, None, "lr", minimum=0),
    "scale_lr": Key(bool, False, "multiply lr by batch size, accumulation and processes"),
    "lr_scheduler": Key(str | None, None, "decay_mode: constant, constant_with_warmup, linear or cosine"),
    "lr_warmup_steps": Key(int | None, None, "warmup_steps", minimum=0),
    "train_batch_size": Key(int | None, None, "batch_sizes", minimum=1),
    "gradient_accumulation_steps": Key(int | None, None, "grad_accumulation", minimum=1),
    "gradient_checkpointing": Key(bool | None, None, "UNet.use_checkpoint"),
    "adam_weight_decay": Key(float | None, None, "weight_decay", minimum=0),
    "max_grad_norm": Key(float | None, None, "grad_clip", minimum=0),
    "max_train_epoch": Key(int, -1, "where max_train_steps is -1"),
    "max_train_steps": Key(int | None, None, "num_steps, counted from 1; -1: by epochs"),
    "checkpointing_epochs": Key(int, 5, "where checkpointing_steps is -1"),
    "checkpointing_steps": Key(int | None, None, "save_ckp_interval; -1: by epochs"),
    "validation_steps": Key(int | None, None, "viz_interval", minimum=1),
    "mixed_precision": Key(Literal["no", "fp16", "bf16"] | bool | None, None, "precision"),
    "is_image": Key(bool, False, "pairs of frames for the spatial layers, without temporal ones"),
    # TF-T2V and VideoLCM with compositions
    "video_compositions": Key(list[str], [], "conditions of the compositional model"),
    "partial_keys": Key(list[list[str]], [["y", "depth"], ["y", "sketch"]], "one video per set of conditions"),
    "data_dir": Key(str, "", "folder of the videos in test_list_path"),
    "annotators": Key(dict[str, dict], {}, "what conditions are read off by: annotator -> its options, e.g. "
                                           "{depth: {weights: FILE}}"),
    "conditions_from": Key(Literal["annotators", "truth"], "annotators",
                           "truth: depth, sketch, motion and mask of the small world's clips are known"),
    "condition_loading": Key(Literal["fitted", "original"], "fitted",
                             "fitted: the middle of real frames alone; original: stretched, short of some frames"),
    "content_weight": Key(float, 1.0, "TF-T2V training: weight of the pictures' loss beside the clips'", minimum=0),
    "picture_first": Key(bool, False, "TF-T2V sampling: a picture for the text, then a video for the picture alone"),
    "use_fps_condition": Key(bool, False, "tell the denoiser the frame rate"),
    "depth_clamp": Key(float, 10.0, "largest depth after division by depth_std"),
    "depth_std": Key(float, 20.0, "depth is divided by this"),
    "sketch_mean": Key(list[float], [0.485, 0.456, 0.406], "the sketch network's normalisation", length=3),
    "sketch_std": Key(list[float], [0.229, 0.224, 0.225], "the sketch network's normalisation", length=3),
    "num_inference_steps": Key(int, 4, "consistency models: denoising steps", minimum=1),
    "num_timesteps": Key(int, 1000, "VideoLCM: diffusion steps", minimum=1),
    "zero_terminal_snr": Key(bool | None, None, "VideoLCM: rescale the schedule to end in pure noise; not set: in "
                             "sampling, not in training, as in the original"),
    "prediction_type_a": Key(Literal["v_prediction", "epsilon"], "v_prediction", "VideoLCM: what the networks predict"),
    "lcm_task": Key(str, REQUIRED, "distillation: the task whose method is distilled, e.g. train_t2v_entrance"),
    "lcm_variant": Key(Literal["reference", "paper"], "reference", "consistency models: paper: the network is told its "
                       "guidance, no dropout in teacher and target; reference: as in VideoLCM's code"),
    "lcm_guide_scales": Key(list[float] | None, None, "distillation: range of guide_scale that the network learns "
                            "(lcm_variant paper); not set: set_fixed_guidance alone", minimum=1, length=2),
    "lcm_target_decay": Key(float, 0.95, "distillation: weight of the past in the target, per step", minimum=0),
    "set_fixed_guidance": Key(float | None, None, "distillation: the one guidance w in c + w (c - u), which is "
                              "guide_scale - 1; not set: 9"),
    "set_target_eval": Key(bool, False, "distillation: no dropout in teacher and target"),
    "use_text_clip_vip_model": Key(bool, False, "TF-T2V: passed to the denoiser"),
    "drop_clip_text": Key(bool, False, "TF-T2V: passed to the denoiser"),
    "no_video_text": Key(bool, False, "TF-T2V: passed to the denoiser"),
    "p_zero_depth_alone": Key(float | None, None, "TF-T2V: passed to the denoiser"),
    "p_zero_motion": Key(float | None, None, "TF-T2V: passed to the denoiser"),
    "p_zero_motion_alone": Key(float | None, None, "TF-T2V: passed to the denoiser"),
    # DreamVideo
    "use_textInversion": Key(bool, False, "replace placeholder words by learned vectors"),
    "freeze_text_embedding": Key(bool, False, "do not train those vectors"),
    "text_embedding_path": Key(str | None, None, "file of learned vectors"),
    "fix_spatial_weight": Key(bool, False, "do not train the spatial layers"),
    "fix_temporal_weight": Key(bool, False, "do not train the temporal layers"),
    "train_adapter": Key(bool, False, "train the adapters"),
    "use_clip_adapter_condition": Key(bool, False, "give the motion adapters the image feature"),
    "use_mask_diffusion": Key(bool, False, "loss inside the subject's mask only"),
    "save_latents": Key(bool, False, "write the latents of the training clips"),
    "sample_preview": Key(bool, False, "draw previews during training"),
    "gen_frames": Key(int, 32, "frames of those previews", minimum=1),
    "appearance_guide_strength_cond": Key(float, 1.0, "strength of the image feature, conditional branch"),
    "appearance_guide_strength_uncond": Key(float, 1.0, "strength of the image feature, unconditional branch"),
    "subject_cfg": Key(str | None, None, "YAML of the subject's training run"),
    "motion_cfg": Key(str | None, None, "YAML of the motion's training run"),
    "subject_log_dir": Key(str | None, None, "log_dir of subject_cfg; taken from there"),
    "motion_log_dir": Key(str | None, None, "log_dir of motion_cfg; taken from there"),
    "base_model": Key(str, REQUIRED, "checkpoint that the adapters belong to"),
    "identity_adapter_index": Key(int | None, None, "step of the subject adapter", minimum=0),
    "identity_adapter_path": Key(str | None, None, "file of the subject adapter"),
    "motion_adapter_index": Key(int | None, None, "step of the motion adapter", minimum=0),
    "motion_adapter_path": Key(str | None, None, "file of the motion adapter"),
    "identity_adapter_scale": Key(float, 1.0, "factor on what the subject adapter adds", minimum=0),
    "motion_adapter_scale": Key(float, 1.0, "factor on what the motion adapter adds", minimum=0),
    "motion_adapter_from": Key(float, 0.0, "share of the noise levels, from the lowest, at which the motion adapter "
                                           "rests; 0.2 keeps more of the subject", minimum=0),
    "test_data_dir": Key(str, "", "folder of the images in test_list_path"),
    "inverse_noise_strength": Key(float, 0.0, "share of the inverted clip's noise in the initial latents", minimum=0),
    "latents_path": Key(str | None, None, "latents to invert"),
    "cfg_prefix": Key(str, "", "prepended to the paths found in subject_cfg and motion_cfg"),
    # InstructVideo
    "temp_dir": Key(str, "workspace/temp_dir", "folder that InstructVideo runs write below"),
    "data_type": Key(list[str], [], "kind of data per rank: vid_diff_reward"),
    "ddim_steps": Key(list[int] | None, None, "the sampler's times, as published files list them; they follow from "
                                              "ddim_timesteps and must agree with it", minimum=0),
    "grad_scale": Key(dict[str, float], {"spatial": 1.0, "temporal": 1.0}, "gradient factors of two groups of layers"),
    "reward": section("REWARD", None, "what is rewarded; not set: the component that reward_type names"),
    "reward_type": Key(str, "HPSv2", "name of a registered reward (never evaluated); see `reward`"),
    "reward_objective": Key(Literal["reward", "rwr", "ddpo"], "reward",
                            "reward: its gradient; rwr: reward-weighted regression; ddpo: policy gradient"),
    "ddpo_clip": Key(float, 1e-4, "ddpo: largest change of a step's probability that still counts", minimum=0),
    "eval_list_path": Key(str | None, None, "list of held-out captions that eval_interval samples"),
    "eval_captions": Key(int, 16, "how many of them", minimum=1),
    "eval_samples": Key(int, 2, "videos of each, whose differences are the diversity", minimum=1),
    "segments": Key(int, 8, "frames that are scored", minimum=1),
    "selection_method": Key(Literal["fixed_first", "TSN"], "fixed_first", "which frame of each segment is scored"),
    "exponential_TSN": Key(bool, True, "weigh frames by their distance from the middle"),
    "lambda_TAR": Key(float, 1.0, "rate of that weighting"),
    "reward_normalization": Key(bool, False, "rwr: normalise rewards per prompt, as ddpo always does"),
    "reward_tracker": Key(dict[str, int] | None, None, "buffer_size and min_count of that normalisation", minimum=1),
    "positive_reward": Key(bool, False, "rwr: rewards below zero count as zero"),
    "data_align_method": Key(Literal["ddpm"] | None, None, "ddpm: weigh by the reconstruction loss"),
    "data_align_coef": Key(float, 10.0, "rate of that weighting"),
    "reward_weights": Key(dict[str, float], {"reward": 1.0, "reg": 1.0}, "weights of the loss's terms"),
    "ST_reward_weights": Key(dict[str, float], {"spatial": 1.0, "temporal": 1.0}, "weights of the reward's terms"),
    "adv_clip_max": Key(float, 5.0, "largest advantage"),
    "temporal_reward_type": Key(list[str] | str, [], "temporal rewards; there are none, as in VGen"),
    "starting_partial": Key(float, 1.0, "share of the sampler's steps that is run", minimum=0),
    "truncated_backprop": Key(bool, True, "gradient through the last steps only"),
    "trunc_backprop_timestep": Key(int, 1, "number of those steps", minimum=1),
    "grad_checkpointing": Key(bool, True, "recompute activations in those steps"),
    "reward_precision": Key(Literal["fp32", "fp16"], "fp16", "fp16: the reward in the run's 16-bit autocast, if any"),
    "share_noise": Key(bool, False, "the same noise in every frame"),
    "temporal_offset_noise": Key(bool, False, "add noise that is constant over space"),
    "temporal_offset_noise_strength": Key(float, 0.1, "strength of that noise", minimum=0),
    "infer_checkpoint": Key(str, REQUIRED, "checkpoint that is sampled"),
    "webvid_dir": Key(str, "", "folder of the evaluation lists"),
    "webvid_cap_file": Key(str, "", "folder of the list below webvid_dir"),
    "webvid_eval_text": Key(str, "", "name of the list without .txt"),
    "webvid_test_caps": Key(int, 0, "how many captions are sampled", minimum=0),
    "webvid_dir_save": Key(str, "", "start of the output folder's name"),
    "suffix": Key(str, "", "appended to every caption"),
}

UNUSED = {
    "ENABLE": unused(bool), "DATASET": unused(str), "vit_out_dim": unused(int), "max_words": unused(int),
    "betas": unused(list[float]), "eps": unused(float), "guidances": unused(list), "alpha": unused(float),
    "load_from": unused(str | None), "inference_list_path": unused(str), "visual_inference": unused(dict),
    "misc_size": unused(int), "hist_sigma": unused(float), "use_checkpoint": unused(bool),
    "temporal_attention": unused(bool), "use_sharded_ddp": unused(bool), "motion_rep": unused(str | None),
    "low_penal_threshold": unused(float | None), "partial_timestep": unused(float | None), "p_img_zero": unused(float),
    "enable_xformers_memory_efficient_attention": unused(bool), "is_debug": unused(bool),
    "reward_source": unused(str), "data_root": unused(str), "cap_dict_path": unused(str),
}

KEYS: dict[str, Key] = (COMMAND_LINE | RUN | COMPONENTS | DATA | TRAINING | AUTOENCODER_TRAINING | SAMPLING | METHODS
                        | UNUSED)


def default_values() -> dict[str, Any]:
    """A fresh dictionary of every key that has a default."""
    return {name: copy.deepcopy(key.default) for name, key in KEYS.items()
            if key.default is not REQUIRED and not (key.unused and key.default is None)}
