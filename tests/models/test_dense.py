"""What models on a classifier's maps promise: every part learns, and a saved copy is the same at any size."""

import copy

import pytest
import torch

from var_pe.models.classifier import MapShape
from var_pe.models.dense.decoders import QueryDecoder
from var_pe.models.dense.detector import Detector, cells_of
from var_pe.models.dense.encoder import described
from var_pe.models.dense.maps import Ladder
from var_pe.models.dense.segmenter import Segmenter
from var_pe.models.hierarchy.classifier import HierarchicalClassifier

LINES = ["convolution(blocks=1)", "windowed(blocks=1, window=2)", "full(blocks=1)"]


@pytest.fixture
def make_encoder(make_vit):
    def make(kind, encoding="learned + rope", **options):
        if kind == "plain":
            given = dict(image_size=(16, 24), num_classes=0, patch_size=4, pool="class_token", registers=1)
            return make_vit(encoding, **(given | options))
        return HierarchicalClassifier(
            image_size=(16, 24), num_classes=0, dim=8, num_heads=2, patch_size=2, encoding=encoding,
            hierarchy=LINES, **options,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("kind", ["plain", "in stages"])
@pytest.mark.parametrize("decoder", ["fpn", "unet", "transformer"])
def test_a_segmenter_learns_everywhere_and_is_saved(kind, decoder, make_encoder, make_loud, tmp_path):
    """DDP waits for the gradient of every parameter; a saved model must be the same at another size, too."""
    model = make_loud(Segmenter(described(make_encoder(kind)), 5, decoder=decoder, width=8))
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (2, 5, 16, 24)
    logits.square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in idle if not name.endswith("bias")]
    assert not [name for name, p in model.named_parameters() if p.grad is None]

    model.eval()
    for size in ((16, 24), (32, 16)):
        model.set_input_size(size, resample="timm")
        model.save_pretrained(tmp_path)
        again = Segmenter.from_pretrained(tmp_path).eval()
        images = torch.randn(1, 3, *size)
        torch.testing.assert_close(again(images), model(images), atol=1e-5, rtol=1e-4)


def test_the_result_of_an_image_does_not_depend_on_others(make_encoder):
    model = Segmenter(described(make_encoder("plain")), 5, width=8).eval()
    images = torch.randn(3, 3, 16, 24)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def test_queries_and_places_have_the_encodings_line(line, make_encoder):
    """Every encoding answers for places in the decoder; with none, queries cannot tell where a token is."""
    model = Segmenter(
        described(make_encoder("plain", line, depth=1)), 5, decoder="transformer", width=8
    ).eval()
    assert isinstance(model.head, QueryDecoder)
    maps = [torch.randn(1, 32, 4, 6, generator=torch.Generator().manual_seed(1))]
    logits = model.head(maps, torch.zeros(0))
    assert logits.shape == (1, 5, 16, 24)
    assert torch.isfinite(logits).all()


def test_one_map_becomes_a_pyramid():
    """The sides follow the strides: 1/4, 1/2, 1 and 2 times the patch, as in ViTDet."""
    ladder = Ladder([MapShape(16, 8)], None)
    assert [shape.stride for shape in ladder.shapes] == [2, 4, 8, 16]
    maps = ladder([torch.randn(1, 16, 5, 3)])
    assert [tuple(x.shape[1:]) for x in maps] == [(4, 20, 12), (8, 10, 6), (16, 5, 3), (16, 3, 2)]
    assert [shape.width for shape in ladder.shapes] == [len(x[0]) for x in maps]
    assert [shape.stride for shape in Ladder([MapShape(16, 2)], None).shapes] == [1, 2, 4]
    assert [shape.stride for shape in Ladder([MapShape(8, 4), MapShape(16, 8)], None).shapes] == [4, 8]
    assert [shape.stride for shape in Ladder([MapShape(8, 4), MapShape(16, 8)], 1).shapes] == [2, 4, 8]
    with pytest.raises(ValueError, match=r"finer=2 is too large: .* cells of 2 pixels .* halved once"):
        Ladder([MapShape(16, 2)], 2)


@pytest.mark.parametrize("kind", ["plain", "in stages"])
def test_a_detector_learns_everywhere_and_is_saved(kind, make_encoder, tmp_path):
    model = Detector(described(make_encoder(kind)), 3, width=32, convolutions=1, threshold=0.0)
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[2.0, 3, 12, 11], [0, 0, 0, 0]], [[5, 4, 20, 14], [1, 1, 9, 8]]])
    losses = model(images, boxes, torch.tensor([[2, -1], [0, 1]]))
    assert sorted(losses) == ["bbox_ctrness", "bbox_regression", "classification"]
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]

    # An image without a box has a loss, too, and rows that only fill up do not matter.
    empty = torch.full((2, 2), -1)
    none = model(images, boxes, empty)
    assert torch.equal(none["bbox_regression"], torch.zeros(()))
    assert none["classification"] > 0
    torch.testing.assert_close(model(images, 2 * boxes, empty), none)

    model.eval()
    for size in ((16, 24), (32, 16)):
        model.set_input_size(size, resample="timm")
        model.save_pretrained(tmp_path)
        again = Detector.from_pretrained(tmp_path).eval()
        images = torch.randn(2, 3, *size)
        for found, same in zip(model(images), again(images), strict=True):
            assert len(found["boxes"]) > 0
            torch.testing.assert_close(same["scores"], found["scores"], atol=1e-5, rtol=1e-4)
            assert (found["boxes"] >= 0).all()
            assert (found["boxes"][:, 2:] <= torch.tensor([size[1], size[0]])).all()


def test_no_class_is_probable_at_the_start(make_encoder):
    """By the prior of the focal loss; else the many empty cells would drown the first steps."""
    model = Detector(described(make_encoder("plain")), 3, width=32).eval()
    answers, _ = model.head._answers(model.encoder.feature_maps(torch.randn(1, 3, 16, 24)))
    assert (answers["cls_logits"].sigmoid() - 0.01).abs().max() < 0.01


def test_a_cell_lies_where_its_pixels_are():
    """Row by row, as the answers are."""
    cells = cells_of(torch.zeros(1, 1, 2, 3), 4)
    assert cells.tolist() == [
        [0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4], [0, 4, 4, 8], [4, 4, 8, 8], [8, 4, 12, 8]
    ]  # fmt: skip


def test_a_detector_learns_a_box(make_encoder):
    """By heart, to the pixel: cells, distances and classes have to mean the same in training and in use."""
    model = Detector(described(make_encoder("plain")), 3, width=32, convolutions=1, finer=0)
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    boxes, labels = torch.tensor([[[2.0, 3, 12, 11]], [[9, 4, 20, 14]]]), torch.tensor([[2], [0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        sum(model(images, boxes, labels).values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    for found, box, label in zip(model.eval()(images), boxes, labels, strict=True):
        assert found["labels"][0] == label
        assert (found["boxes"][0] - box).abs().max() < 1


@pytest.mark.slow
def test_a_whole_detector_is_compiled_once_whatever_the_number_of_boxes(make_encoder):
    """With the losses of a plain pass."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = Detector(described(make_encoder("plain")), 3, width=32, finer=0, convolutions=1).train()
    whole = copy.deepcopy(plain)
    whole.compile(backend="eager", dynamic=False)

    images = torch.randn(2, 3, 16, 24)
    boxes_BM4 = torch.tensor([[2.0, 2.0, 14.0, 10.0]]).repeat(2, 4, 1)
    graphs = []
    for number in (1, 2, 4):
        labels_BM = torch.full((2, 4), -1)
        labels_BM[:, :number] = 1
        torch.testing.assert_close(whole(images, boxes_BM4, labels_BM), plain(images, boxes_BM4, labels_BM))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == [graphs[0]] * 3
    torch._dynamo.reset()
