"""What the environment decides: folders, the network, the job; devices, dtypes and torch's switches for precision."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
from pathlib import Path

import pytest
import torch

from fdr import runtime
from fdr.errors import InputError
from fdr.runtime import devices

VARIABLES = ("FDR_CACHE", "XDG_CACHE_HOME", "FDR_WEIGHTS", "TORCH_HOME", "FDR_OFFLINE", "HF_HUB_OFFLINE")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


@pytest.mark.parametrize(
    ("env", "home"),
    [
        ({}, "/home/ada/.cache/fdr"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/fdr"),
        ({"XDG_CACHE_HOME": "~/x"}, "/home/ada/x/fdr"),
        ({"XDG_CACHE_HOME": "/x", "FDR_CACHE": "/own"}, "/own"),
        ({"FDR_CACHE": "~/own"}, "/home/ada/own"),
        ({"FDR_CACHE": "  "}, "/home/ada/.cache/fdr"),
    ],
)
def test_where_our_own_files_are(env: dict[str, str], home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (str(runtime.cache_home()), str(runtime.feature_cache_dir())) == (home, f"{home}/features")


@pytest.mark.parametrize(
    ("env", "explicit", "folders"),
    [
        ({}, None, ["/home/ada/.cache/fdr/weights", "/home/ada/.cache/torch/hub/checkpoints"]),
        ({"XDG_CACHE_HOME": "/x"}, None, ["/x/fdr/weights", "/x/torch/hub/checkpoints"]),
        ({"TORCH_HOME": "~/t", "FDR_CACHE": "/own"}, None, ["/own/weights", "/home/ada/t/hub/checkpoints"]),
        (
            {"FDR_WEIGHTS": " ~/w ", "FDR_CACHE": "/own", "TORCH_HOME": "/t"},
            "~/e",
            ["/home/ada/e", "/home/ada/w", "/own/weights", "/t/hub/checkpoints"],
        ),
        ({"FDR_CACHE": "/own", "TORCH_HOME": "/t"}, Path("/e"), ["/e", "/own/weights", "/t/hub/checkpoints"]),
    ],
)
def test_where_weights_are_looked_for_and_in_which_order(
    env: dict[str, str], explicit: str | Path | None, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert list(map(str, runtime.weights_dirs(explicit))) == folders


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        *[
            ({name: value}, True)
            for name in ("FDR_OFFLINE", "HF_HUB_OFFLINE")
            for value in ("1", "true", " YES ", "on")
        ],
        *[({name: value}, False) for name in ("FDR_OFFLINE", "HF_HUB_OFFLINE") for value in ("0", "", "no")],
        ({}, False),
    ],
)
def test_whether_the_network_may_be_used(env: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert runtime.is_offline() is expected
    for asked in (True, False):
        assert runtime.is_offline(asked) is asked
        with runtime.offline(asked):
            assert runtime.is_offline() is asked and runtime.is_offline(not asked) is not asked
            with runtime.offline(None):
                assert runtime.is_offline() is asked
        assert runtime.is_offline() is expected


def test_offline_ends_with_its_context_also_after_an_error() -> None:
    with contextlib.suppress(KeyError), runtime.offline(True):
        raise KeyError
    assert not runtime.is_offline()


def test_the_job_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_OUTPUT", "/o")
    assert runtime.github_job() is None
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert runtime.github_job() == runtime.GitHubJob(Path("/o"), None)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/s")
    assert runtime.github_job() == runtime.GitHubJob(Path("/o"), Path("/s"))


def test_versions_are_those_of_the_installed_packages() -> None:
    found = runtime.package_versions()
    for name in ("torch", "numpy", "pillow", "h5py", "click"):
        assert found[name] == importlib.metadata.version(name)
    assert set(found) >= {
        "fdr",
        "timm",
        "transformers",
        "open_clip_torch",
        "diffusers",
        "simplejpeg",
        "huggingface_hub",
    }


def test_what_fdr_env_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDR_OFFLINE", "1")
    found = runtime.describe_machine()
    assert (found["feature cache"], found["offline"]) == ("/home/ada/.cache/fdr/features", "True")
    assert found["cpus"] == str(len(os.sched_getaffinity(0)))
    assert found["weight folders"] == "/home/ada/.cache/fdr/weights, /home/ada/.cache/torch/hub/checkpoints"


# Devices


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "", "meta", "xla"])
def test_devices_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match=r"^(Unknown d|D)evice "):
        runtime.resolve_device(name)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in (None, "auto", "cpu"):
        assert runtime.resolve_device(name) == torch.device("cpu")
    with pytest.raises(InputError, match="finds no CUDA device"):
        runtime.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in (None, "auto", "cuda"):
        assert runtime.resolve_device(name) == torch.device("cuda")
    assert runtime.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=re.escape("'cuda:2' does not exist; 2 CUDA device(s) found")):
        runtime.resolve_device("cuda:2")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_with_fast_bfloat16(capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert runtime.has_fast_bf16(torch.device("cuda:0")) is expected
    assert not runtime.has_fast_bf16(torch.device("meta"))


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx512f"}, False), ({"amx_bf16"}, True), ({"avx512_bf16", "sse"}, True), (set(), False)]
)
def test_processors_with_fast_bfloat16(flags: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    cpu = torch.device("cpu")
    assert runtime.has_fast_bf16(cpu) is expected
    if expected:
        assert runtime.check_dtype("bf16", cpu) is torch.bfloat16
    else:
        with pytest.raises(InputError, match="has no fast bfloat16"):
            runtime.check_dtype("bf16", cpu)
    assert runtime.check_dtype("float32", cpu) is torch.float32
    with pytest.raises(InputError, match="Unknown dtype 'float16'; expected float32 or bf16"):
        runtime.check_dtype("float16", cpu)


def switches() -> tuple[object, ...]:
    cuda = torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(),
        cuda.allow_fp16_reduced_precision_reduction,
        cuda.allow_bf16_reduced_precision_reduction,
    )


@pytest.mark.parametrize("is_error", [False, True])
def test_faithful_products_sets_three_switches_and_puts_them_back(is_error: bool) -> None:
    original = switches()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        with contextlib.suppress(KeyError), runtime.faithful_products():
            assert switches() == ("highest", False, False)
            if is_error:
                raise KeyError
        assert switches() == ("medium", True, False)
    finally:
        torch.set_float32_matmul_precision(str(original[0]))
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = bool(original[1])
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = bool(original[2])


def test_tf32_is_one_switch_for_products_and_convolutions() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for allow in (True, False):
            runtime.set_tf32(allow)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allow, allow)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_the_peak_of_memory_is_in_bytes() -> None:
    peak = runtime.peak_memory(torch.device("cpu"))
    status = Path("/proc/self/status").read_text()
    kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
    assert peak is not None and 0.9 < peak / (1024 * kilobytes) < 1.1


# Amounts


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234567, "1.2 MB"),
        (999_000_000, "999.0 MB"),
        (1_000_000_000, "1.0 GB"),
        (2.5e12, "2.5 TB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_amounts_are_written_in_powers_of_1000(size: float, text: str) -> None:
    assert runtime.human_bytes(size) == text
