"""The page of the app: what it shows of each configuration, and what its buttons do."""
import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr

from tools.catalogue import CLIP, PICTURE, Settings
from tools.engines.controls import WEIGHT_SUFFIXES, Control
from tools.errors import UserError
from tools.studio import Studio

MAX_SEED = 2**31 - 1
MOST_GUIDANCE = 20
FEW = (1, 2, 4, 8)
WIDGETS = {"slider": gr.Slider, "menu": gr.Dropdown, "checks": gr.CheckboxGroup, "file": gr.File}
# Parts whose properties depend on the configuration, in the order of the buttons' inputs, and those that are no input.
SHARED = ("prompt", "picture", "clip", "seed", "guide_scale", "steps", "few", "few_steps", "refine", "lora",
          "lora_scale")
SHOWN = ("preview", "maps")


def build(studio: Studio, chosen: str) -> gr.Blocks:
    """The page, at first with the configuration `chosen`."""
    controls = {control.key: control for name in studio.configs for control in studio.controls(name)}
    at_first = shown(studio, chosen, list(controls))

    def look(name: str) -> list[dict]:
        return [gr.update(**part) for part in shown(studio, name, list(controls)).values()]

    def run(name, prompt, picture, clip, seed, guide_scale, steps, few, few_steps, refine, lora, lora_scale, fresh,
            progress=gr.Progress(), *own):  # noqa: B008  gradio's way
        seed = random.randint(0, MAX_SEED) if fresh else seed
        values = prompt, picture, clip, seed, guide_scale, steps, few, few_steps, refine, lora, lora_scale
        with told():
            settings = settings_of(studio, name, dict(zip(SHARED, values, strict=True)),
                                   dict(zip(controls, own, strict=False)))
            return *make_video(studio, name, settings, progress), settings.seed

    def draw(name, clip, seed, *own):
        with told():
            more = own_of(studio, name, dict(zip(controls, own, strict=False)))
            return str(studio.preview(name, replace(studio.defaults(name), source=clip, seed=int(seed), more=more)))

    with gr.Blocks(title="OneReel", analytics_enabled=False) as page:
        gr.Markdown("# OneReel\nA video from a sentence, from a picture and a sentence, or steered by another video.")
        with gr.Row():
            with gr.Column():
                name = gr.Dropdown(list(studio.configs), value=chosen, label="Configuration")
                parts, fresh = _shared_parts(at_first)
                own = {key: WIDGETS[control.widget](**_anywhere(studio, control) | at_first[key])
                       for key, control in controls.items()}
                parts["preview"] = gr.Button("Preview the conditions", **at_first["preview"])
                start = gr.Button("Make the video", variant="primary")
            with gr.Column():
                parts["maps"] = gr.Video(label="Conditions", autoplay=True, loop=True, **at_first["maps"])
                video = gr.Video(label="Video", autoplay=True, loop=True)
                note = gr.Textbox(label="Made", interactive=False)
                sidecars = gr.File(label="All it takes to make it again", file_count="multiple")
        inputs = [parts[key] for key in SHARED]
        name.change(look, name, [*inputs, *(parts[key] for key in SHOWN), *own.values()])
        parts["preview"].click(draw, [name, parts["clip"], parts["seed"], *own.values()], parts["maps"],
                               api_name="preview", concurrency_limit=1)
        start.click(run, [name, *inputs, fresh, *own.values()], [video, sidecars, note, parts["seed"]],
                    api_name="make_video", concurrency_limit=1)
    return page


def _shared_parts(at_first: dict[str, dict]) -> tuple[dict, gr.Checkbox]:
    """Components of SHARED by name, and the box that asks for another seed."""
    parts = {
        "prompt": gr.Textbox(label="Prompt", lines=2, **at_first["prompt"]),
        "picture": gr.Image(label="Picture to start from", type="filepath", format="png", height=240,
                            **at_first["picture"]),
        "clip": gr.File(label="Video or picture to take conditions from", file_types=["video", "image"],
                        **at_first["clip"]),
    }
    with gr.Row():
        parts["seed"] = gr.Number(label="Seed", precision=0, minimum=0, maximum=MAX_SEED, **at_first["seed"])
        fresh = gr.Checkbox(False, label="Another seed each time")
    parts["guide_scale"] = gr.Slider(1, MOST_GUIDANCE, step=0.1, label="Guidance", **at_first["guide_scale"])
    parts["steps"] = gr.Slider(1, step=1, label="Denoising steps", **at_first["steps"])
    with gr.Row():
        parts["few"] = gr.Checkbox(label="Few steps", info="by a network distilled for that, with its own guidance",
                                   **at_first["few"])
        parts["few_steps"] = gr.Radio(list(FEW), value=FEW[2], label="How few", **at_first["few_steps"])
    parts["refine"] = gr.Checkbox(label="Refine the video to a larger size", **at_first["refine"])
    with gr.Row():
        parts["lora"] = gr.File(label="LoRA", file_types=list(WEIGHT_SUFFIXES), **at_first["lora"])
        parts["lora_scale"] = gr.Slider(0, 2, 1, step=0.05, label="Strength of the LoRA", **at_first["lora_scale"])
    return parts, fresh


def shown(studio: Studio, name: str, own: list[str]) -> dict[str, dict]:
    """Properties that a configuration gives the parts of SHARED, of SHOWN and the methods' own controls `own`."""
    settings, source = studio.defaults(name), studio.starts_from(name)
    few, loras = studio.few_steps(name) is not None, studio.takes_loras(name)
    parts = {
        "prompt": {"value": settings.prompt},
        "picture": {"value": settings.source if source == PICTURE else None, "visible": source == PICTURE},
        "clip": {"value": settings.source if source == CLIP else None, "visible": source == CLIP},
        "seed": {"value": settings.seed},
        "guide_scale": {"value": settings.guide_scale, "maximum": max(MOST_GUIDANCE, settings.guide_scale)},
        "steps": {"value": settings.steps, "maximum": studio.most_steps(name)},
        "few": {"value": False, "visible": few},
        "few_steps": {"visible": few},
        "refine": {"value": False, "visible": studio.refinement(name) is not None},
        "lora": {"visible": loras},
        "lora_scale": {"visible": loras},
        "preview": {"visible": source == CLIP},
        "maps": {"value": None, "visible": source == CLIP},
    }
    offered = {control.key: control for control in studio.controls(name)}
    return parts | {key: properties(offered[key], studio.config(name)) | {"visible": True} if key in offered
                    else {"visible": False} for key in own}


def properties(control: Control, cfg) -> dict:
    """What a method's own control shows of a configuration."""
    value = {"value": control.value(cfg)}
    if control.widget == "slider":
        return value | {"minimum": control.minimum, "maximum": control.maximum, "step": control.step}
    return value if control.widget == "file" else value | {"choices": list(control.options(cfg))}


def _anywhere(studio: Studio, control: Control) -> dict:
    """What it shows, hidden as it is, until a configuration is chosen that offers it: what the first of them has, with
    the choices of all."""
    cfgs = [studio.config(name) for name in studio.configs if control in studio.controls(name)]
    fixed = {"label": control.label} | properties(control, cfgs[0])
    if control.widget == "file":
        return fixed | {"file_types": list(WEIGHT_SUFFIXES)}
    choices = dict.fromkeys(itertools.chain.from_iterable(control.options(cfg) for cfg in cfgs))
    return fixed | ({"choices": list(choices)} if choices else {})


def settings_of(studio: Studio, name: str, shared: dict, own: dict) -> Settings:
    """What the page's values mean for a configuration.

    Args:
        studio: of the page.
        name: configuration.
        shared: values of the parts SHARED.
        own: those of the methods' own controls, among them those that this one does not have.
    """
    source = {PICTURE: shared["picture"], CLIP: shared["clip"]}.get(studio.starts_from(name))
    return Settings(
        shared["prompt"], source, int(shared["seed"]), float(shared["guide_scale"]), int(shared["steps"]),
        own_of(studio, name, own),
        {shared["lora"]: shared["lora_scale"]} if shared["lora"] else {},
        int(shared["few_steps"]) if shared["few"] else None, shared["refine"])


def own_of(studio: Studio, name: str, values: dict) -> dict:
    """Those values of the methods' own controls that a configuration has."""
    offered = {control.key for control in studio.controls(name)}
    return {key: value for key, value in values.items() if key in offered}


def make_video(studio: Studio, name: str, settings: Settings, report) -> tuple[str, list[str], str]:
    """Make one video.

    Args:
        studio: what makes it.
        name: configuration.
        settings: what to make.
        report: called as gr.Progress is, with a fraction and a text.

    Returns:
        Path of the video, refined where that was asked for; sidecars, the video's own first; and a line that says how
        long it took with which seed.
    """
    start = time.perf_counter()
    report(0.0, desc="preparing")
    made = studio.make(name, settings, lambda stage, done, total: report(
        done / total, desc=f"{stage}: step {done} of {total}"))
    seconds = time.perf_counter() - start
    return (str(made[-1]), [str(sidecar_of(path)) for path in reversed(made)],
            f"{seconds:.1f} s, seed {settings.seed}, {made[-1]}")


def sidecar_of(path: Path) -> Path:
    """The JSON beside a video; a single frame is `NAME.mp4.png`, its sidecar `NAME.json`."""
    return (path.with_suffix("") if path.suffix == ".png" else path).with_suffix(".json")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Show a person's mistake in the page, as its one line."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from error
