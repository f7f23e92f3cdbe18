"""Two processes train as one does: features gathered, gradients summed, terms divided among the ranks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_rank_program import (
    CARRIED,
    DEBIASED,
    NUM_ENCODERS,
    OPTIMIZERS,
    UNBIASED,
    accumulated,
    conditional,
    fast_routes,
    filled,
    trained,
)
from loss_worlds import generator, make_loss, noise
from processes import exit_codes

import fdr
from fdr.errors import InputError
from fdr.loss import frozen_basis as _frozen_basis
from fdr.runtime import SOLO, tensor_ranks
from fdr.runtime.ranks.tensor_group import _backends, _buckets, link_of

PROGRAM = Path(__file__).with_name("loss_rank_program.py")


def two_processes(folder: Path, *wraps: str) -> list[dict[str, Any]]:
    """What each of two processes found that trained with gradients combined in the ways `wraps`."""
    paths = [str(PROGRAM.parent), str(PROGRAM.parent.parent), str(Path(fdr.__file__).parent.parent)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), *wraps],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": os.pathsep.join(paths)},
            stderr=(folder / f"{rank}.txt").open("w"),
        )
        for rank in range(2)
    ]
    codes = exit_codes(processes)
    assert codes == [0, 0], (folder / "0.txt").read_text() + (folder / "1.txt").read_text()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_processes(tmp_path_factory.mktemp("ranks"), "sum", "ddp")


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[torch.Tensor, fdr.FDLoss, list[float]]]:
    return {optimizer: trained(optimizer) for optimizer in OPTIMIZERS}


def check_same(found: list[dict[str, Any]], alone: dict[str, Any], optimizer: str, wrap: str) -> None:
    parameters, _, fds = alone[optimizer]
    start = torch.cat([p.detach().flatten() for p in generator().parameters()])
    assert (parameters - start).abs().max() > 0.01  # there is something to compare
    for rank in found:
        torch.testing.assert_close(rank[f"{optimizer}-{wrap}"], parameters, rtol=1e-6, atol=1e-6)
        assert rank[f"fds-{optimizer}-{wrap}"] == pytest.approx(fds, rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("wrap", ["sum", "ddp"])
def test_twenty_steps_give_the_parameters_of_one_process(
    ranks: list[dict[str, Any]], alone: dict[str, Any], optimizer: str, wrap: str
) -> None:
    check_same(ranks, alone, optimizer, wrap)


@pytest.mark.slow
def test_so_they_do_with_fsdp(tmp_path: Path, alone: dict[str, Any]) -> None:
    """FSDP2 (`fully_shard`) over gloo on the CPU."""
    found = two_processes(tmp_path, "fsdp")
    for optimizer in OPTIMIZERS:
        check_same(found, alone, optimizer, "fsdp")


def test_so_they_do_with_a_debiased_gradient(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Its share depends on the size of the batch of all ranks."""
    parameters, _, _ = trained("adamw", population=DEBIASED)
    assert (parameters - alone["adamw"][0]).abs().max() > 1e-3
    for rank in ranks:
        torch.testing.assert_close(rank["debiased"], parameters, rtol=1e-6, atol=1e-6)


def test_so_they_do_with_lag_correction(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """The history of all ranks is carried along with the features of all ranks."""
    parameters, _, fds = trained("adamw", population=CARRIED)
    assert (parameters - alone["adamw"][0]).abs().max() > 1e-3
    for rank in ranks:
        torch.testing.assert_close(rank["carried"], parameters, rtol=1e-6, atol=1e-6)
        assert rank["fds-carried"] == pytest.approx(fds, rel=1e-6)


@pytest.mark.parametrize("name", UNBIASED)
def test_so_they_do_with_other_losses_without_bias(ranks: list[dict[str, Any]], name: str) -> None:
    parameters, _, fds = trained("adamw", **UNBIASED[name])
    for rank in ranks:
        torch.testing.assert_close(rank[name], parameters, rtol=1e-6, atol=1e-6)
        assert rank[f"fds-{name}"] == pytest.approx(fds, rel=1e-6)


def test_terms_are_divided(ranks: list[dict[str, Any]]) -> None:
    assert [found["owned"] for found in ranks] == [["e0", "e2"], ["e1"]]


def test_chunks_on_ranks(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        torch.testing.assert_close(found["accumulated"], accumulated(), rtol=1e-9, atol=1e-12)


def test_a_conditional_loss_on_ranks(ranks: list[dict[str, Any]]) -> None:
    """Its terms live on both ranks."""
    alone = conditional()
    for found in (rank["conditional"] for rank in ranks):
        torch.testing.assert_close(found["parameters"], alone["parameters"], rtol=1e-6, atol=1e-6)
        for values, expected in zip(found["values"], alone["values"], strict=True):
            assert values == pytest.approx(expected, rel=1e-6)
        for name, entry in alone["state"]["encoders"].items():
            for key, tensor in entry["term"].items():
                torch.testing.assert_close(found["state"]["encoders"][name]["term"][key], tensor, rtol=1e-6, atol=1e-9)


def test_bases_are_refreshed_one_at_a_time_and_on_any_number_of_ranks_alike(
    ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_frozen_basis, "MAX_AGE", 9)
    alone = fast_routes()
    refreshed = [[i for i, route in enumerate(step) if route.startswith("refresh")] for step in alone]
    assert refreshed[0] == [0, 1, 2]
    assert [len(encoders) for encoders in refreshed[1:]].count(1) == len([x for x in refreshed[1:] if x]) > 6
    assert ranks[0]["routes"] == ranks[1]["routes"] == alone


def test_their_state_goes_on_in_one_process(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Every rank has the whole."""
    expected = alone["adamw"][1](generator()(noise(99))).fd
    for found in ranks:
        loss = make_loss(NUM_ENCODERS)
        loss.load_state_dict(found["state"])
        assert loss(generator()(noise(99))).fd == pytest.approx(expected, rel=1e-6)


def test_a_fault_on_one_rank_is_heard_on_both(ranks: list[dict[str, Any]]) -> None:
    texts = [found["errors"] for found in ranks]
    assert texts[0]["load"] == texts[1]["load"]
    assert texts[0]["nan"] == texts[1]["nan"]
    assert "non-finite features for 1 of 24 images" in texts[0]["nan"]
    assert [text["is_peer"] for text in texts] == [True, False]
    assert texts[1]["failed"] == "no luck here"
    assert texts[0]["failed"] == "The term of e1 failed on another rank: RunError: no luck here"
    expected = filled()(generator()(noise(0))).fd
    for text in texts:
        assert text["fd"] == pytest.approx(expected, rel=1e-9)
        assert "already holds steps of training" in text["late fill"]


def test_what_is_sent_keeps_the_rules_of_nccl(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Contiguous, of one shape and dtype on all ranks; the program asserts it in every call."""
    for found in ranks:
        assert found["calls"] == ["all_gather", "all_reduce", "broadcast"]
        torch.testing.assert_close(found["strict"], alone["sgd"][0], rtol=1e-6, atol=1e-6)


def test_rows_and_words_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    rows = torch.arange(12.0).reshape(3, 4).T
    for rank, found in enumerate(found["exchanged"] for found in ranks):
        gathered, own = found["none"]
        assert gathered.shape == (0, 3) and own == [0, 0]
        gathered, own = found["one"]
        assert torch.equal(gathered, rows) and gathered.dtype == torch.float32 and own == ([0, 0], [0, 4])[rank]
        gathered, own = found["two dtypes"]
        assert torch.equal(gathered, torch.cat([rows, rows[:1]]).double()) and own == ([0, 4], [4, 5])[rank]
        assert gathered.dtype == torch.float64
        assert torch.equal(found["shared"], rows)
        assert found["words"] == (["rank 0", "rank 1"], ["of 1"])
        assert found["any"] == [True, True, False]
        assert found["sums"] == [3.0, 1.0, 2.0]


def test_a_message_holds_tensors_of_one_dtype_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.ranks.tensor_group.BUCKET", 4)
    single, double = torch.ones(3), torch.ones(1, dtype=torch.float64)
    given = [single, single, single, double, double, single]
    found = list(_buckets(given))
    assert [[tensor.dtype for tensor in part] for part in found] == [
        [torch.float32] * 2, [torch.float32], [torch.float64] * 2, [torch.float32],
    ]  # fmt: skip
    assert all(a is b for a, b in zip(itertools.chain(*found), given, strict=True)) and list(_buckets([])) == []


CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("config", "device", "expected"),
    [
        ("cpu:gloo,cuda:gloo", CPU, CPU),
        ("cpu:gloo,cuda:gloo", GPU, CPU),
        ("cpu:gloo,cuda:nccl", CPU, CPU),
        ("cpu:gloo,cuda:nccl", GPU, GPU),
        ("cuda:nccl", GPU, GPU),
        ("cuda:nccl", CPU, torch.device("cuda", 3)),
        ("cuda:nccl", torch.device("cuda"), torch.device("cuda", 3)),
        ("cpu:mpi", CPU, CPU),
    ],
)
def test_the_device_from_which_a_rank_sends(
    monkeypatch: pytest.MonkeyPatch, config: str, device: torch.device, expected: torch.device
) -> None:
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    assert link_of(_backends(config), device) == expected


def test_a_group_without_a_way_is_refused() -> None:
    with pytest.raises(InputError, match=r"has the backends \{'xpu': 'xccl'\}"):
        link_of(_backends("xpu:xccl"), CPU)


def test_one_process_has_no_ranks() -> None:
    assert tensor_ranks(None, CPU).size == tensor_ranks(SOLO, CPU).size == 1
    rows = torch.randn(3, 2)
    gathered, own = tensor_ranks(None, CPU).gather_rows(rows)
    assert gathered is rows and own == slice(0, 3)
