"""`Evaluation` in loops: all numbers of `fdr.evaluate`, kept features, ranks, plots."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_worlds import GivenClip, coloured
from metric_rank_program import tensors
from torch import Tensor, nn
from torchmetrics import MetricCollection
from worlds import TinyEncoder, images

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.torchmetrics import Evaluation, FrechetDistance

METRICS = ("fd", "fd_debiased", "kid:all", "precision", "recall", "density", "coverage", "vendi", "mind")
LABELLED = ("fd_per_class", "class_accuracy_linear")
NUM_REAL, NUM_MADE = 120, 100


def encoders() -> list[TinyEncoder]:
    return [TinyEncoder(), TinyEncoder("twin", weights="other")]


def values(report: fdr.Report) -> dict[str, float]:
    return {result.key: result.value for result in report}


def plain(found: dict[str, Tensor]) -> dict[str, float]:
    assert all(value.dtype == torch.float64 and value.shape == () for value in found.values())
    return {key: value.item() for key, value in found.items()}


def filled(metric: Evaluation, real: bool = True) -> Evaluation:
    """The metric with the images of both sides, in uneven batches."""
    for batch in tensors(NUM_REAL, 0).split(25) if real else ():
        metric.update(batch, real=True)
    for batch in tensors(NUM_MADE, 1).split(7):
        metric.update(batch)
    return metric


@pytest.fixture(scope="module")
def offline() -> fdr.Report:
    """What `fdr.evaluate` says of the same images."""
    return fdr.evaluate(images(NUM_MADE, 1), images(NUM_REAL, 0), encoders(), METRICS)


def test_the_numbers_are_those_of_an_evaluation(offline: fdr.Report) -> None:
    for metric in (
        filled(Evaluation(encoders(), METRICS)),
        filled(Evaluation(encoders(), ",".join(METRICS), images(NUM_REAL, 0)), real=False),
    ):
        found = plain(metric.compute())
        assert list(found) == list(values(offline)) and found == pytest.approx(values(offline), rel=1e-6)


def test_the_report_of_the_last_number_has_the_signatures_of_an_evaluation(offline: fdr.Report) -> None:
    metric = Evaluation(encoders(), METRICS, images(NUM_REAL, 0))
    assert metric.report is None
    filled(metric, real=False).compute()
    report = metric.report
    assert report is not None and report.samples["count"] == NUM_MADE and report.samples["kind"] == "loop"
    assert [result.signature for result in report] == [result.signature for result in offline]
    assert fdr.Report.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_metrics_of_moments_keep_sums_only() -> None:
    metric = filled(Evaluation(encoders(), ["fd"]))
    assert repr(metric) == "Evaluation(tiny, twin; fd)"
    states = metric.metric_state
    assert {name.split(":")[0] for name in states if name != "source"} == {"generated_sums", "real_sums"}
    expected = fdr.evaluate(images(NUM_MADE, 1), images(NUM_REAL, 0), encoders(), "fd")
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)


def test_features_are_kept_only_of_outputs_that_need_them() -> None:
    metric = filled(Evaluation([TinyEncoder()], ["fd", "is"], images(NUM_REAL, 0)), real=False)
    states = metric.metric_state
    assert set(states) == {"generated_sums:tiny:features", "generated_features:tiny:logits", "source"}
    expected = fdr.evaluate(images(NUM_MADE, 1), images(NUM_REAL, 0), [TinyEncoder()], ["fd", "is"])
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)


def test_a_metric_without_reference_needs_no_real_images() -> None:
    metric = filled(Evaluation([TinyEncoder()], "is"), real=False)
    expected = fdr.evaluate(images(NUM_MADE, 1), None, [TinyEncoder()], "is")
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)
    with pytest.raises(InputError, match="or needs none"):
        metric.update(tensors(4, 0), real=True)


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_ratios_come_with_a_reference_that_has_a_validation_set() -> None:
    metric = Evaluation("random", ["fd"], "demo")
    metric.update(tensors(30, 1))
    expected = values(fdr.evaluate(images(30, 1), "demo", "random", "fd"))
    assert set(expected) == {"fd:random", "fdr:random"}
    assert plain(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_a_training_set_is_that_of_an_evaluation() -> None:
    given = {"training_set": images(40, 3)}
    metric = filled(Evaluation([TinyEncoder()], ["authpct"], images(NUM_REAL, 0), **given), real=False)
    expected = fdr.evaluate(images(NUM_MADE, 1), images(NUM_REAL, 0), [TinyEncoder()], ["authpct"], **given)
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)


def test_prompts_belong_to_the_images_in_their_order() -> None:
    pictures, prompts = coloured((255, 128), (2, 255), (2, 0)), ["1 0", "0 1", "1 1"]
    expected = fdr.evaluate(pictures, None, GivenClip(), "clip_score", prompts=prompts)
    metric = Evaluation(GivenClip(), "clip_score", prompts=prompts)
    metric.update(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)
    assert metric.report is not None and metric.report.results[0].signature == expected.results[0].signature
    metric.update(tensors(2, 0))
    with pytest.raises(InputError, match="3 prompts"):
        metric.compute()


def test_names_of_other_tools_are_answered_with_those_of_the_arguments() -> None:
    with pytest.raises(InputError, match="Evaluation has no argument 'reps'; did you mean 'encoders'"):
        Evaluation(reps=["random"])
    with pytest.raises(InputError, match="FrechetDistance has no argument 'feature_extractor'; did you mean 'encoder'"):
        FrechetDistance(feature_extractor=TinyEncoder())


def test_options_of_an_evaluation_reach_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="explicit weights 'inception'"):
        Evaluation("random", weights={"inception": tmp_path / "w.pth"})
    metric = Evaluation([TinyEncoder()], "precision", memory=2**20, batch_size=3)
    evaluator = metric._evaluation.evaluator
    assert evaluator._context.memory == 2**20 and evaluator.extraction_options.batch_size == 3


def labelled_files(folder: Path) -> tuple[Path, Path]:
    paths = folder / "samples.npz", folder / "real.npz"
    for path, count, seed in zip(paths, (NUM_MADE, NUM_REAL), (1, 0), strict=True):
        np.savez(path, arr_0=images(count, seed), arr_1=np.arange(count) % 3)
    return paths


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_classes_come_with_the_images(tmp_path: Path) -> None:
    expected = fdr.evaluate(*labelled_files(tmp_path), [TinyEncoder()], LABELLED)
    metric = Evaluation([TinyEncoder()], LABELLED)
    for real, count, seed in ((True, NUM_REAL, 0), (False, NUM_MADE, 1)):
        classes = torch.arange(count) % 3
        for batch, labels in zip(tensors(count, seed).split(20), classes.split(20), strict=True):
            metric.update(batch, real=real, labels=labels)
    assert plain(metric.compute()) == pytest.approx(values(expected), rel=1e-6)
    assert [result.signature.split("|ref:")[0] for result in metric.report] == [
        result.signature.split("|ref:")[0] for result in expected
    ]
    with pytest.raises(InputError, match="class of every generated image: give update"):
        metric.update(tensors(4, 1))
    for labels in (torch.zeros(4), [1, 2, 3], torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"Labels are whole numbers \[4\]"):
            metric.update(tensors(4, 1), labels=labels)


def test_real_images_can_stay() -> None:
    metric = filled(Evaluation([TinyEncoder()], ["fd", "kid:all"], reset_real_features=False))
    first = plain(metric.compute())
    metric.reset()
    with pytest.raises(InputError, match="0 generated images given"), pytest.warns(UserWarning, match="before the"):
        metric.compute()
    assert plain(filled(metric, real=False).compute()) == first
    whole = filled(Evaluation([TinyEncoder()], ["fd", "kid:all"]))
    whole.reset()
    with pytest.raises(InputError, match="0 real images given"):
        filled(whole, real=False).compute()


def test_a_module_measures_reference_and_samples_in_eval_mode_and_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5)).train()
    metric = Evaluation(module, ["fd", "kid:all"], images(20, 0), num_features=12)
    metric.update(tensors(20, 0))
    found = plain(metric.compute())
    assert next(value for key, value in found.items() if key.startswith("fd")) == 0 and module[2].training


def test_features_that_grow_too_large_are_refused_and_what_was_collected_stays() -> None:
    metric = Evaluation([TinyEncoder()], ["kid:all"], images(20, 0), feature_memory=4 * 12 * 10)
    metric.update(tensors(8, 1))
    with pytest.raises(InputError, match=r"take 5\.28e-07 GB, more than this metric may keep") as error:
        metric.update(tensors(3, 2))
    assert "raise feature_memory" in str(error.value)
    metric.update(tensors(2, 2))
    sums = Evaluation([TinyEncoder()], ["fd"], images(20, 0), feature_memory=1)
    sums.update(tensors(40, 1))


@pytest.mark.filterwarnings("default:.*:fdr.errors.FdrWarning")
def test_a_number_that_cannot_be_computed_is_left_out_with_a_warning() -> None:
    metric = Evaluation([TinyEncoder()], ["fd", "is"], images(20, 0))
    metric.update(tensors(5, 1))
    with pytest.warns(FdrWarning, match="is:tiny could not be computed: The Inception Score needs at least 10"):
        assert set(metric.compute()) == {"fd:tiny"}
    alone = Evaluation([TinyEncoder()], ["is"])
    alone.update(tensors(5, 1))
    with pytest.raises(InputError, match="at least 10"):
        alone.compute()


@pytest.mark.parametrize("given", ["random", [TinyEncoder()]], ids=["name", "object"])
def test_copies_go_on_where_the_metric_was(given: Any) -> None:
    metric = Evaluation(given, ["fd", "kid:all"], images(20, 0))
    metric.update(tensors(10, 1))
    metric.compute()
    copies = [copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))]
    for one in (metric, *copies):
        one.update(tensors(8, 2))
    assert len({tuple(plain(one.compute()).items()) for one in (metric, *copies)}) == 1


def test_a_state_dict_carries_the_features() -> None:
    metric, again = (Evaluation([TinyEncoder()], ["fd", "kid:all"], images(20, 0)) for _ in range(2))
    metric.persistent(True)
    metric.update(tensors(10, 1))
    again.load_state_dict(metric.state_dict())
    for one in (metric, again):
        one.update(tensors(8, 2))
    assert plain(again.compute()) == plain(metric.compute())


def test_a_collection_shares_what_is_equal_and_a_call_has_no_value() -> None:
    def metrics() -> dict[str, Evaluation]:
        return {name: Evaluation([TinyEncoder()], ["kid:all"], images(20, seed)) for name, seed in (("a", 0), ("b", 5))}

    collection, alone = MetricCollection(dict(metrics())), metrics()
    for index, batch in enumerate(tensors(30, 1).split(10)):
        if index == 2:
            assert set(collection(batch).values()) == {None}
        else:
            collection.update(batch)
        for metric in alone.values():
            metric.update(batch)
    assert collection.compute_groups == {0: ["a", "b"]}
    expected = {f"{name}_kid:all:tiny": metric.compute()["kid:all:tiny"].item() for name, metric in alone.items()}
    assert plain(collection.compute()) == pytest.approx(expected, rel=1e-9)


def test_features_of_another_metric_can_be_merged() -> None:
    whole, first, second = (Evaluation([TinyEncoder()], ["fd", "kid:all"], images(20, 0)) for _ in range(3))
    whole.update(tensors(30, 1))
    first.update(tensors(30, 1)[:12])
    second.update(tensors(30, 1)[12:])
    second.merge_state(first)  # what comes in stands first
    assert plain(second.compute()) == pytest.approx(plain(whole.compute()), rel=1e-9)


class Ranks:
    """Stands for the exchange of three ranks: what the others hold is asked of them; one of them holds nothing."""

    def __init__(self, others: list[Evaluation]) -> None:
        self.others = others

    def available(self) -> bool:
        return True

    def gather(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        states = [self._like(other, tensor) for other in self.others]
        return [tensor, *states]

    def _like(self, other: Evaluation, tensor: Tensor) -> Tensor:
        """The state of another rank that belongs to the same slot, found by its kind."""
        for value in other.metric_state.values():
            found = torch.cat(value) if isinstance(value, list) and value else value
            if isinstance(value, list) and not value and tensor.ndim == 2 and tensor.dtype == torch.float32:
                return torch.empty(0, 0)
            if isinstance(found, Tensor) and found.ndim == tensor.ndim and found.dtype == tensor.dtype:
                return found
        raise AssertionError(tensor.shape)


def test_ranks_with_few_images_or_none_give_the_numbers_of_one_process() -> None:
    def metric(**options: Any) -> Evaluation:
        return Evaluation([TinyEncoder()], ["kid:all", "precision"], images(20, 0), **options)

    others = [metric(), metric()]
    others[1].update(tensors(30, 1)[20:])
    ranks = Ranks(others)
    own = metric(dist_sync_fn=ranks.gather, distributed_available_fn=ranks.available)
    own.update(tensors(30, 1)[:13])
    own.update(tensors(30, 1)[13:20])
    whole = metric()
    whole.update(tensors(30, 1))
    assert plain(own.compute()) == pytest.approx(plain(whole.compute()), rel=1e-9)
    assert sum(map(len, own.metric_state["generated_features:tiny:features"])) == 20  # its own again


def test_a_failed_number_leaves_the_metric_with_its_own_images() -> None:
    options: dict[str, Any] = {
        "dist_sync_fn": lambda tensor, group=None: [tensor, tensor],
        "distributed_available_fn": lambda: True,
    }
    for metric in (FrechetDistance(TinyEncoder(), **options), Evaluation([TinyEncoder()], "kid:all", **options)):
        metric.update(tensors(4, 1))
        with pytest.raises(InputError, match="0 real images given"):
            metric.compute()
        assert not metric._is_synced
        metric.update(tensors(4, 0), real=True)
        metric.compute()
        states = [value for name, value in metric.metric_state.items() if name.startswith("generated")]
        assert [len(value) if isinstance(value, list) else int(value[0, 0]) for value in states] in ([1], [4])


def test_plots_have_a_panel_for_each_metric_and_mark_the_better_side(offline: fdr.Report) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    metric = filled(Evaluation(encoders(), ["fd", "precision"], images(NUM_REAL, 0)), real=False)
    figure, axes = metric.plot([metric.compute(), metric.compute()])
    assert [axis.get_ylabel() for axis in axes] == ["FD (lower is better)", "Precision (higher is better)"]
    assert [[line.get_label() for line in axis.get_lines()][:2] for axis in axes] == [["tiny", "twin"]] * 2
    assert [axis.get_lines()[-1].get_ydata()[0] for axis in axes] == [0.0, 1.0]
    assert list(axes[0].get_lines()[0].get_ydata()) == [offline["fd", "tiny"].value] * 2
    plt.close(figure)
    fd = FrechetDistance(TinyEncoder(), fdr.Moments.from_features(fdr.extract(images(30), TinyEncoder())))
    fd.update(tensors(30, 1))
    figure, axis = fd.plot()
    assert axis.get_ylabel() == "FD (lower is better)" and len(axis.get_lines()[0].get_ydata()) == 1
    assert fd.plot(fd.compute(), axis) == (None, axis)
    with pytest.raises(InputError, match="2 axes are needed, one for each metric; got 1"):
        metric.plot(ax=axis)
    plt.close(figure)


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Evaluation([TinyEncoder()], ["fd"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'fdr-eval\[plot\]'"):
        metric.plot({"fd:tiny": 1.0})
