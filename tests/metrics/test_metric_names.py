"""Names of metrics: in any case, with what other tools call them; the facts of a name are those of its metric."""

from __future__ import annotations

import pytest

from fdr.errors import InputError
from fdr.ifid.quality import LOWER_IS_BETTER
from fdr.metrics import METRICS, load_metrics, metric_facts, peer_name
from fdr.metrics.names import FACTS, PEER_NAMES
from fdr.metrics.registry import DERIVED


def test_the_facts_of_a_name_are_those_of_its_metric() -> None:
    measured = {metric.name: metric.lower_is_better for metric in load_metrics(list(METRICS))}
    assert set(measured) == set(METRICS) and set(measured) | DERIVED | set(LOWER_IS_BETTER) < set(FACTS)
    for name, lower_is_better in {**measured, **LOWER_IS_BETTER}.items():
        assert FACTS[name].lower_is_better == lower_is_better, name
    assert metric_facts("ifd:0.25") == metric_facts("ifd") and metric_facts("new") is None


def test_names_in_any_case() -> None:
    assert [metric.name for metric in load_metrics("FD, Is:ADM,FDr")] == ["fd", "is:adm"]


@pytest.mark.parametrize("name, sentence", [
    ("kid", "it is not offered yet; fd is the nearest. Known: fd, is,"),
    ("FID", r"it is the metric fd of the encoder inception \(metrics='fd' encoders='inception'"),
    ("Clean-FID", "encoder inception:clean"),
    ("cmmd", "not offered yet; fd of the encoder clip:cmmd"),
    ("PRDC", "precision and recall are offered, density and coverage are not yet"),
    ("density", "not offered yet; precision and recall are"),
    ("CLIP-score", "compares images with texts"),
    ("LPIPS", "an autoencoder; fdr ifid measures it"),
    ("precisoin", "did you mean 'precision'"),
    ("xyz", "; known: fd, is,"),
])  # fmt: skip
def test_the_names_of_other_tools(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"Unknown metric '{name}'.*{sentence}") as caught:
        load_metrics(name)
    assert "sfid'" not in str(caught.value)


def test_the_table_of_other_names_is_looked_up_as_it_is_written() -> None:
    assert all(peer_name(name) == text for name, text in PEER_NAMES.items())
    assert not PEER_NAMES.keys() & METRICS.keys()
