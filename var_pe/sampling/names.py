"""Arguments that other pipelines have under other names, and what to write here instead."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches

NO_TEXT = "there is no text: class_labels takes classes by number or name"
NO_STEPS = "there are no diffusion steps: an image is drawn level by level, and pyramid says by which levels"
NO_NOISE = "there is no initial noise: images follow from generator, and given_tokens keeps tokens"
BY_GENERATOR = "images follow from generator, such as torch.Generator().manual_seed(0)"
PER_LABEL = "num_images_per_label is the number of images of each class"
EVERY_LEVEL = "callback_on_level_end(pipeline, level, tensors) is called after every level"
REPAINTING = "VARInpaintPipeline repaints pictures: its image, mask_image and strength"

# arguments of diffusers' pipelines and of VAR's code, and what to write here
ELSEWHERE = {
    "prompt": NO_TEXT,
    "prompt_embeds": NO_TEXT,
    "negative_prompt": f"{NO_TEXT}, and guidance_scale leads away from the image of no class",
    "negative_prompt_embeds": NO_TEXT,
    "num_inference_steps": NO_STEPS,
    "timesteps": NO_STEPS,
    "sigmas": NO_STEPS,
    "eta": NO_STEPS,
    "guidance_rescale": NO_STEPS,
    "latents": NO_NOISE,
    "num_images_per_prompt": PER_LABEL,
    "batch_size": PER_LABEL,
    "num_samples": PER_LABEL,
    "callback": EVERY_LEVEL,
    "callback_steps": EVERY_LEVEL,
    "callback_on_step_end": EVERY_LEVEL,
    "callback_on_step_end_tensor_inputs": f"{EVERY_LEVEL}, with latents among the tensors",
    "seed": BY_GENERATOR,
    "g_seed": BY_GENERATOR,
    "rng": BY_GENERATOR,
    "label_B": "class_labels takes classes by number or name",
    "labels": "class_labels takes classes by number or name",
    "class_label": "class_labels takes classes by number or name",
    "cfg": "guidance_scale is VAR's cfg",
    "cfg_scale": "guidance_scale is VAR's cfg",
    "more_smooth": "smooth is VAR's more_smooth",
    "image": REPAINTING,
    "mask_image": REPAINTING,
    "strength": REPAINTING,
}


def refuse_others(others: Mapping[str, object], call: Callable[..., object]) -> None:
    """Refuses arguments that a call does not have, with a sentence that says what to write instead.

    Raises:
        TypeError: there is such an argument.
    """
    ours = [known for known in inspect.signature(call).parameters if known not in ("self", "others")]
    for name in others:
        if name in ours:
            continue
        if name in ELSEWHERE:
            raise TypeError(f"{name} is not an argument here: {ELSEWHERE[name]}")
        near = get_close_matches(name, ours, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ours)}"
        raise TypeError(f"{name} is not an argument here: {hint}")
