"""metrics.json: every number with what it rests on, and no entry ever lost."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.evaluation.tiny import tiny
from var_pe.evaluation.records import read_metrics, record, write_metrics

TINY = tiny()


def entry(**changes) -> dict:
    values = {"frechet_distance_tiny": 3.0}
    about = {"reference": "fashion_mnist", "reference_split": "test", "num_images": 50, "num_reference": 50}
    made = {
        "sampler": {"guidance": 1.5},
        "seeds": {"images": 0},
        "step": 100,
        "ema": True,
        "floor": {"count": 50},
    }
    return record(values, extractor=TINY, **(about | made | changes))


def test_a_record_says_what_its_numbers_rest_on():
    """A number without these cannot be compared with another one."""
    found = json.loads(json.dumps(entry()))
    assert found["values"] == {"frechet_distance_tiny": 3.0}
    assert found["floor"] == {"count": 50}
    assert found["features"] == {"name": "tiny", "weights_sha256": "0" * 64, "comparable_with_papers": False}
    assert found["num_images"] == 50
    assert found["reference"] == {"set": "fashion_mnist", "split": "test", "num_images": 50}
    assert found["sampler"] == {"guidance": 1.5}
    assert found["seeds"] == {"images": 0}
    assert found["weights"] == {"step": 100, "ema": True}
    assert {"python", "torch", "torch-fidelity", "diffusers", "accelerate"} <= set(found["versions"])


def test_metrics_are_merged_by_key(tmp_path):
    """A second extractor's numbers must not wipe out the first's."""
    path = tmp_path / "run" / "metrics.json"
    write_metrics(path, {"generated/tiny": entry(), "reconstructed/tiny": entry()})
    write_metrics(path, {"generated/tiny": entry(step=200)})
    found = read_metrics(path)
    assert found["generated/tiny"]["weights"]["step"] == 200
    assert found["reconstructed/tiny"]["weights"]["step"] == 100


def test_evaluations_at_the_same_time_lose_no_entry(tmp_path):
    """Reading, adding and replacing must be one step for all writers."""
    path = tmp_path / "metrics.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_metrics(path, {f"generated/{i}": entry()}), range(32)))
    assert len(read_metrics(path)) == 32


@pytest.mark.parametrize("wrong", [{"generated/tiny": {"values": {"fid": float("nan")}}}, {"values": 3.0}])
def test_what_cannot_be_recorded_leaves_the_file_as_it_was(tmp_path, wrong):
    """NaN is no JSON, and a record without a key would spill over the others."""
    path = tmp_path / "metrics.json"
    write_metrics(path, {"generated/tiny": entry()})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"not JSON compliant|metrics\.json maps keys to records"):
        write_metrics(path, wrong)
    assert path.read_bytes() == before


def test_a_damaged_file_is_not_overwritten(tmp_path):
    """It may hold numbers that took a day."""
    path = tmp_path / "metrics.json"
    path.write_text('{"generated/tiny": {')
    with pytest.raises(ValueError, match=r"metrics\.json is not JSON"):
        write_metrics(path, {"generated/tiny": entry()})
    assert path.read_text() == '{"generated/tiny": {'
