from __future__ import annotations

import pytest

from app.cluster.local import simulated_gpus
from app.cluster.local.gpus import Gpu


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("", ()),
        ("0", ()),
        ("2", ("simulated", "simulated")),
        ("H100=2", ("H100", "H100")),
        (" H100=1, A100=2 ", ("H100", "A100", "A100")),
    ],
)
def test_simulated_gpus_are_read_from_a_setting(text: str, types: tuple[str, ...]) -> None:
    assert simulated_gpus(text) == types


@pytest.mark.parametrize("text", ["x", "=2", "H100=", "H100=-1", "-1", "H100=1=2", "9999"])
def test_a_setting_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        simulated_gpus(text)


@pytest.mark.parametrize(
    ("type", "wanted", "fits"),
    [
        ("H100 80GB HBM3", "H100", True),
        ("H100 80GB HBM3", "h100-80gb", True),
        ("GeForce RTX 4090", "rtx 4090", True),
        ("A100-SXM4-80GB", "A10", False),
        ("L40S", "L40", False),
    ],
)
def test_a_type_is_matched_by_whole_words(type: str, wanted: str, fits: bool) -> None:
    assert Gpu("0", type).is_a(wanted) is fits
