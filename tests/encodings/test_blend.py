"""A blend of two encodings is the old one at 0 and the new one at 1; what has no half is refused."""

import pytest
import torch

from var_pe.encodings import build_encoding
from var_pe.encodings.machinery.blend import Blended, parts_of
from var_pe.models.transfer import blend_in, keep_new
from var_pe.pyramid import Pyramid


def test_a_blend_is_the_old_encoding_at_first_and_the_new_one_in_the_end(line, make_generator, make_loud):
    """With every member as the new one, and as the old one: a retrofit begins and ends without a jump."""
    model, other = make_loud(make_generator(line)), make_generator("learned + rope")
    weights = model.state_dict().items()
    shared = {name: tensor for name, tensor in weights if not name.startswith("position_encoding.")}
    other.load_state_dict(shared, strict=False)
    make_loud(other.position_encoding)
    labels_B = torch.tensor([0, 2])
    inputs_BLZ = torch.randn(2, 29, 4, generator=torch.Generator().manual_seed(0))
    ends = [found(labels_B, inputs_BLZ) for found in (other, model)]
    own = model.position_encoding
    if not all(part.blends for part in parts_of(own)):
        with pytest.raises(ValueError, match="cannot be blended with another encoding"):
            Blended(own, own)
        return

    their = other.position_encoding
    for old, new, expected in [(their, own, ends), (own, their, ends[::-1])]:
        model.position_encoding = Blended(old, new)
        for share, logits_BLV in enumerate(expected):
            model.position_encoding.share.fill_(share)
            torch.testing.assert_close(model(labels_B, inputs_BLZ), logits_BLV, atol=1e-4, rtol=1e-4)
        model.position_encoding.share.fill_(0.5)
        half_BLV = model(labels_B, inputs_BLZ)
        assert half_BLV.isfinite().all()
        assert not torch.allclose(half_BLV, ends[0], atol=1e-3)


def test_half_of_a_rotation_is_a_rotation_by_half_of_the_angle():
    """Halfway between turned and not turned, a vector keeps its length."""
    pyramid = Pyramid.square(1, 2, 3)
    old, new = (
        build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=pyramid) for line in ("none", "rope")
    )
    blended = Blended(old, new)
    blended.share.fill_(0.5)
    x_BHLD = torch.randn(1, 4, 14, 8, generator=torch.Generator().manual_seed(0))
    positions = pyramid.positions()
    once_BHLD = blended.rotate(x_BHLD, blended.prepare(positions), 0)
    torch.testing.assert_close(once_BHLD.norm(dim=-1), x_BHLD.norm(dim=-1))
    twice_BHLD = blended.rotate(once_BHLD, blended.prepare(positions), 0)
    torch.testing.assert_close(twice_BHLD, new.rotate(x_BHLD, new.prepare(positions), 0))


def test_what_both_lines_have_keeps_its_weights_and_the_new_one_remains(make_generator, make_loud):
    """A trained table must not fade out to make room for an untrained one of the same kind."""
    trained, model = make_loud(make_generator("learned")), make_generator("learned + rope")
    assert blend_in(model, trained.position_encoding, "learned") == ["learned"]
    keep_new(model)
    table_LC = dict(model.named_parameters())["position_encoding.parts.0.table_LC"]
    assert torch.equal(table_LC, trained.position_encoding.table_LC)
    with pytest.raises(ValueError, match="has the encoding learned \\+ rope already"):
        blend_in(model, model.position_encoding, "learned + rope")


@pytest.mark.parametrize("line", ["factorized", "learned_grid", "blocks(fourier, size=2)"])
def test_what_keeps_the_grids_of_another_size_cannot_stay_as_trained(line, make_vit):
    """The new line's own is made for the size at hand: the weights do not fit."""
    trained, model = make_vit(line), make_vit(f"{line} + rope", image_size=(16, 24))
    trained.set_input_size((16, 24))
    with pytest.raises(
        ValueError, match="cannot stay as trained: its weights belong to other grids than 8x12"
    ):
        blend_in(model, trained.position_encoding, line)
