"""FID-Inception: parity with the peers' networks on one state dict, and every way a weight file can be wrong."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from inception_state import make_inception_state, save_inception_state
from torch import Tensor

from fdr.encoders import EncoderOptions, as_encoder, find_spatial_layer
from fdr.encoders.catalogue import INCEPTION_WEIGHTS
from fdr.encoders.inception import InceptionEncoder, load
from fdr.encoders.inception_network import FoldedInception, InceptionNetwork
from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.images import procedural
from fdr.runtime import devices as runtime

NAMES = ("inception", "inception:pytorch-fid", "inception:clean", "inception:fdloss")
PARITY = 5e-5
"""The peers' own float32 networks are up to 3e-5 from their float64 ones, by processor, threads and batch size."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception_state(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 [2, 3, 64, 64]"""
    return torch.from_numpy(procedural.draw_set(5, 2)).permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=6)
def encoder(weights: Path, name: str = "inception", **options: object) -> InceptionEncoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FdrWarning)  # random weights are not the published ones
        chosen = EncoderOptions(weights=weights, device="cpu", **options)  # type: ignore[arg-type]
        return as_encoder(name, chosen)  # type: ignore[return-value]


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest deviation in units of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def test_network_has_the_names_and_shapes_of_the_published_state_dict() -> None:
    state = make_inception_state()
    assert len(state) == 94 * 5 + 2
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert state["fc.weight"].shape == (1008, 2048)


def test_calibrated_state_keeps_activations_alive(weights: Path, images: Tensor) -> None:
    pool = encoder(weights)(images / 255, ["pool"])["pool"]
    assert 0.1 < pool.std() < 100
    assert (pool == 0).float().mean() < 0.5
    assert pool.std(0).mean() > 0.1 * pool.std()


@pytest.mark.parametrize("exact_order", [False, True])
def test_inception_equals_torch_fidelity(weights: Path, images: Tensor, exact_order: bool) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = peer.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
    with torch.inference_mode():
        pool, logits = extractor(images)
        found = encoder(weights, exact_order=exact_order)(images / 255, ["pool", "logits"])
    limit = 0 if exact_order else PARITY
    assert deviation(found["pool"], pool) <= limit
    assert deviation(found["logits"], logits) <= limit


@pytest.mark.parametrize("exact_order", [False, True])
def test_pytorch_fid_variant_equals_pytorch_fid(
    weights: Path, images: Tensor, exact_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
    network = peer.InceptionV3([3]).eval()
    with torch.inference_mode():
        expected = network(images / 255)[0].flatten(1)
        found = encoder(weights, "inception:pytorch-fid", exact_order=exact_order)(images / 255, ["pool"])["pool"]
    assert deviation(found, expected) <= (0 if exact_order else PARITY)


def test_folded_network_is_as_near_to_float64_as_the_peers_order(weights: Path, images: Tensor) -> None:
    state = make_inception_state()
    exact, folded = InceptionNetwork().eval(), InceptionNetwork().eval()
    exact.load_state_dict(state, strict=False)
    folded.load_state_dict(state, strict=False)
    inputs = torch.nn.functional.interpolate(images[:1] / 127.5 - 1, (299, 299))
    with torch.inference_mode():
        ours = FoldedInception(folded.requires_grad_(False))(inputs, ["pool"])["pool"]
        plain = exact(inputs, ["pool"])["pool"]
        truth = exact.double()(inputs.double(), ["pool"])["pool"].double()
        # the global average is float32 by contract; its rounding is part of both errors
    assert float((ours - truth).norm()) <= 2 * float((plain - truth).norm())


def test_exact_order_is_exact_for_channels_last_images_too(weights: Path, images: Tensor) -> None:
    network = encoder(weights, "inception:pytorch-fid", exact_order=True)
    with torch.inference_mode():
        plain = network(images[:1] / 255, ["pool"])["pool"]
        permuted = network((images[:1] / 255).contiguous(memory_format=torch.channels_last), ["pool"])["pool"]
    assert torch.equal(plain, permuted)


def test_a_network_that_was_loaded_in_inference_mode_has_gradients(weights: Path, images: Tensor) -> None:
    with torch.inference_mode():
        loaded = encoder.__wrapped__(weights)
    inputs = (images[:1] / 255).requires_grad_()
    loaded(inputs)["pool"].sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().max() > 0


def test_both_networks_give_the_map_of_the_last_block(weights: Path, images: Tensor) -> None:
    """The pooled features are the mean of the map, so that the gradient is the same at all 8 x 8 positions."""
    maps = {}
    direction = torch.randn(1, 2048, generator=torch.Generator().manual_seed(0))
    for exact_order in (False, True):
        network = encoder(weights, exact_order=exact_order)
        inputs = network.preprocess(images[:1] / 255)
        layer = find_spatial_layer(network, inputs)
        assert layer.name.endswith("last_map") and layer.layout.grid == (8, 8)
        maps[exact_order], gradient = layer.activations(network, inputs, direction)
        torch.testing.assert_close(gradient, (direction / 64)[..., None, None].expand(-1, -1, 8, 8))
        pool = network(images[:1] / 255, ["pool"])["pool"]
        torch.testing.assert_close(maps[exact_order].mean((2, 3)), pool, rtol=1e-4, atol=1e-5)
    assert deviation(maps[False], maps[True]) < PARITY


@pytest.mark.parametrize("exact_order", [False, True])
def test_features_do_not_depend_on_the_batch(weights: Path, images: Tensor, exact_order: bool) -> None:
    network = encoder(weights, exact_order=exact_order)
    with torch.inference_mode():
        together = network(images / 255)
        alone = [network(image[None] / 255) for image in images]
    for name in network.outputs:
        assert deviation(torch.cat([one[name] for one in alone]), together[name]) < 1e-5


def test_outputs_have_the_documented_shapes_and_only_the_asked_ones_come(weights: Path, images: Tensor) -> None:
    network = encoder(weights)
    with torch.inference_mode():
        found = network(images[:1] / 255)
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "pool": (1, 2048),
            "logits": (1, 1008),
            "spatial": (1, 2023),
        }
        assert all(value.dtype == torch.float32 for value in found.values())
        assert set(network(images[:1] / 255, ["spatial"])) == {"spatial"}
    with pytest.raises(InputError, match=r"inception has no output 'pooled'; it gives pool, logits, spatial\."):
        network(images / 255, ["pooled"])


def test_logits_are_pool_times_weight_without_bias(weights: Path, images: Tensor) -> None:
    with torch.inference_mode():
        found = encoder(weights)(images / 255, ["pool", "logits"])
    assert deviation(found["logits"], found["pool"] @ make_inception_state()["fc.weight"].T) < 1e-6


def test_spatial_is_the_first_convolution_of_mixed_6d_in_height_width_channel_order(
    weights: Path, images: Tensor
) -> None:
    network = encoder(weights, exact_order=True)
    seen: list[Tensor] = []
    block = network._network.get_submodule("Mixed_6d.branch1x1")
    block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        spatial = network(images[:1] / 255, ["spatial"])["spatial"]
    assert (seen[0] >= 0).all()
    assert torch.equal(spatial[0].reshape(17, 17, 7), seen[0][0, :7].permute(1, 2, 0))


def test_gradients_reach_the_images_and_no_parameter(weights: Path, images: Tensor) -> None:
    network = encoder(weights)
    pixels = (images[:1] / 255).requires_grad_()
    network(pixels, ["pool"])["pool"].sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network._network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_spec_says_what_was_computed(weights: Path, name: str) -> None:
    spec = encoder(weights, name).spec
    assert (spec.name, spec.output, spec.dim, spec.input_size) == (name, "pool", 2048, 299)
    assert len(spec.weights) == 64 and spec.dtype == "float32" and spec.compute == "default"


def test_everything_that_moves_numbers_changes_the_hash(weights: Path, tmp_path: Path) -> None:
    loaded = [encoder(weights, name) for name in NAMES]
    loaded += [encoder(weights, exact_order=True), encoder(weights, tf32=True)]
    runtime.set_tf32(False)
    loaded.append(encoder(save_inception_state(tmp_path, seed=1)))
    assert len({one.spec.hash for one in loaded}) == len(loaded)
    assert [one.host_preprocess for one in loaded[:4]] == [False, False, True, False]


def test_loading_switches_tf32_as_asked_and_keeps_the_random_state(weights: Path) -> None:
    before = torch.get_rng_state()
    encoder.__wrapped__(weights, tf32=True)
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    encoder.__wrapped__(weights)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_is_refused_without_a_fast_path_and_named_where_used(
    weights: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.has_fast_bf16(torch.device("cpu")):
        network = encoder(weights, dtype="bf16")
        assert network.spec.dtype == "bf16" and next(network._network.parameters()).dtype == torch.bfloat16
        with torch.inference_mode():
            pool = network(images[:1] / 255, ["pool"])["pool"]
            assert pool.dtype == torch.float32
            assert 1e-4 < deviation(pool, encoder(weights)(images[:1] / 255, ["pool"])["pool"]) < 0.1
        with pytest.raises(InputError, match="excludes dtype='bf16'"):
            encoder(weights, dtype="bf16", exact_order=True)
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda device: False)
    with pytest.raises(InputError, match="no fast bfloat16"):
        encoder.__wrapped__(weights, dtype="bf16")


@pytest.mark.parametrize("name", [INCEPTION_WEIGHTS.filename, *INCEPTION_WEIGHTS.aliases])
def test_weights_are_found_under_both_published_names(weights: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(weights)
    with pytest.warns(FdrWarning, match="is not the published weight file of encoder 'inception'"):
        network = load("inception", EncoderOptions(weights_dir=tmp_path, device="cpu", offline=True))
    assert network.spec.weights_source == str(tmp_path / name)


def test_state_dict_with_step_counters_loads_too(weights: Path, tmp_path: Path) -> None:
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in make_inception_state()
        if name.endswith("running_mean")
    }
    path = tmp_path / "counted.pth"
    torch.save(make_inception_state() | counters, path)
    assert encoder(path).spec.dim == 2048


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"fetch pt_inception-2015-12-05-6726825d\.pth .* save it as"):
        load("inception", EncoderOptions(weights_dir=tmp_path, device="cpu", offline=True))


def test_truncated_file_is_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(weights.read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        encoder(path)


def test_torchvisions_inception_is_refused(tmp_path: Path) -> None:
    state = dict(make_inception_state())
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:1000], state["fc.bias"][:1000]
    state["AuxLogits.fc.weight"] = torch.zeros(1000, 768)
    path = tmp_path / "torchvision.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match="torchvision's Inception v3, not the FID one"):
        encoder(path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    with pytest.raises(WeightsError, match="seems to hold a ResNet"):
        encoder(path)


def test_unknown_variant_suggests_near_matches(weights: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown encoder 'inception:cleen'; did you mean 'inception:clean'"):
        encoder(weights, "inception:cleen")


def test_clean_variant_has_no_gradient_and_says_so(weights: Path, images: Tensor) -> None:
    with pytest.raises(InputError, match="pil-bicubic-float runs in Pillow and has no gradient"):
        encoder(weights, "inception:clean").preprocess((images / 255).requires_grad_())


def test_family_imports_no_heavy_package_that_it_does_not_use() -> None:
    import subprocess

    code = (
        "import sys, fdr.encoders.inception, fdr.encoders.random_net; "
        "print(sorted({'timm', 'torchvision', 'open_clip', 'transformers', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
