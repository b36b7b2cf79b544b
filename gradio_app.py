"""The engine in a browser: `python gradio_app.py`, then open the address it prints. Serves this machine only."""
import argparse
import logging
import random
import sys
import time

from tools import cli
from tools.errors import UserError

MAX_SEED = 2**31 - 1


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; imports neither torch nor gradio, so that `--help` answers at once."""
    parser = argparse.ArgumentParser(
        description="Text-to-video and image-to-video in a browser, by the configurations in configs/.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cfg", metavar="FILE", default="configs/quickstart.yaml", help="configuration to begin with")
    parser.add_argument("--configs", metavar="FOLDER", default="configs", help="where the configurations are")
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to serve; 0.0.0.0 opens the app to the network, without any password")
    parser.add_argument("--port", type=int, default=7860, help="port to serve")
    return parser.parse_args(argv)


def make_video(studio, name: str, settings, report) -> tuple[str, str, str]:
    """Make one video.

    Args:
        studio: `tools.studio.Studio`.
        name: configuration.
        settings: `tools.studio.Settings`.
        report: called as gr.Progress is, with a fraction and a text.

    Returns:
        Path of the video, path of the sidecar, and a line that says how long it took with which seed.
    """
    start = time.perf_counter()
    report(0.0, desc="preparing")
    path = studio.make(name, settings, lambda done, total: report(done / total, desc=f"step {done} of {total}"))
    seconds = time.perf_counter() - start
    return str(path), str(sidecar_of(path)), f"{seconds:.1f} s, seed {settings.seed}, {path}"


def sidecar_of(path):
    """The JSON beside a video; a single frame is `NAME.mp4.png`, its sidecar `NAME.json`."""
    return (path.with_suffix("") if path.suffix == ".png" else path).with_suffix(".json")


def build(studio, chosen: str):
    """The page.

    Args:
        studio: `tools.studio.Studio`.
        chosen: configuration to begin with.

    Returns:
        gr.Blocks.
    """
    import gradio as gr

    from tools.studio import Settings

    def show(name):
        """Values that a configuration brings along, in the order of `inputs`."""
        settings = studio.defaults(name)
        picture = gr.update(value=settings.picture, visible=studio.wants_picture(name))
        own = [gr.update(value=settings.more[key], visible=True) if key in settings.more else gr.update(visible=False)
               for key in controls]
        return settings.prompt, picture, settings.seed, settings.guide_scale, settings.steps, *own

    def run(name, prompt, picture, seed, guide_scale, steps, fresh,
            progress=gr.Progress(), *own):  # noqa: B008  gradio's way
        seed = random.randint(0, MAX_SEED) if fresh else int(seed)
        try:
            more = dict(zip(controls, own, strict=False))
            settings = Settings(prompt, picture, seed, float(guide_scale), int(steps), more)
            return *make_video(studio, name, settings, progress), seed
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    first = studio.defaults(chosen)
    controls = {control.key: control for name in studio.configs for control in studio.controls(name)}
    with gr.Blocks(title="OneReel", analytics_enabled=False) as page:
        gr.Markdown("# OneReel\nA video from a sentence, or from a picture and a sentence.")
        with gr.Row():
            with gr.Column():
                name = gr.Dropdown(list(studio.configs), value=chosen, label="Configuration")
                prompt = gr.Textbox(first.prompt, label="Prompt", lines=2)
                picture = gr.Image(first.picture, label="Picture to start from", type="filepath", format="png",
                                   height=240, visible=studio.wants_picture(chosen))
                with gr.Row():
                    seed = gr.Number(first.seed, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                    fresh = gr.Checkbox(False, label="Another seed each time")
                guide_scale = gr.Slider(1, 20, first.guide_scale, step=0.1, label="Guidance")
                steps = gr.Slider(1, 200, first.steps, step=1, label="Denoising steps")
                own = [_component(gr, control, first.more.get(control.key)) for control in controls.values()]
                start = gr.Button("Make the video", variant="primary")
            with gr.Column():
                video = gr.Video(label="Video", autoplay=True, loop=True)
                note = gr.Textbox(label="Made", interactive=False)
                sidecar = gr.File(label="All it takes to make it again")
        name.change(show, name, [prompt, picture, seed, guide_scale, steps, *own])
        start.click(run, [name, prompt, picture, seed, guide_scale, steps, fresh, *own], [video, sidecar, note, seed],
                    api_name="make_video", concurrency_limit=1)
    return page


def _component(gr, control, value):
    """Menu or slider of a method's own setting, hidden (value None) where the chosen configuration has no such one."""
    shown = {"label": control.label, "visible": value is not None}
    if control.choices:
        return gr.Dropdown(list(control.choices), value=value or control.choices[0], **shown)
    return gr.Slider(control.minimum, control.maximum, control.minimum if value is None else value, step=control.step,
                     **shown)


def main() -> None:
    """Serve the page until Ctrl-C."""
    arguments = parse(sys.argv[1:])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # or it notes every request that gradio makes of itself
    from tools.studio import Studio  # imports torch
    studio = Studio(arguments.configs)
    chosen = arguments.cfg if arguments.cfg in studio.configs else next(iter(studio.configs))
    folders = sorted({cfg.log_dir for cfg in studio.configs.values()})
    build(studio, chosen).launch(server_name=arguments.host, server_port=arguments.port, share=False, ssr_mode=False,
                                 allowed_paths=folders)


if __name__ == "__main__":
    cli.run_main(main)
