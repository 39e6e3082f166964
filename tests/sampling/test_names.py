"""Arguments of other names are refused by a sentence that says what to write."""

import inspect

import pytest

from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.names import ELSEWHERE
from var_pe.sampling.pipeline import VARPipeline


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_argument_of_other_pipelines_is_met_with_ours(pipeline, name):
    with pytest.raises(TypeError, match=f"^{name} is not an argument here: ") as caught:
        pipeline([0], **{name: 1})
    arguments = [*inspect.signature(VARPipeline.__call__).parameters, "image"]
    assert any(ours in str(caught.value).partition(": ")[2] for ours in arguments)
    assert name not in inspect.signature(VARPipeline.__call__).parameters


def test_a_mistyped_argument_has_a_neighbour(pipeline):
    with pytest.raises(TypeError, match="generater is not an argument here: did you mean generator"):
        pipeline([0], generater=None)
    with pytest.raises(
        TypeError, match=r"xyzzy is not an argument here: there are class_labels, guidance_scale"
    ):
        pipeline([0], xyzzy=None)
    editor = VARInpaintPipeline.from_pipe(pipeline)
    with pytest.raises(TypeError, match="num_images_per_label is the number of images"):
        editor(*[pipeline([0], output_type="pt").images] * 2, [0], num_images_per_prompt=2)
