"""Encoders in a loss: a gradient to the images in every family, nothing of them altered, chunks, autocast, compile."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from worlds import TinyEncoder

import fdr
from fdr.encoders import ROWS, AbstractEncoder, CallableEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.inception import InceptionEncoder
from fdr.encoders.inception_network import FoldedInception, InceptionNetwork
from fdr.encoders.network import build_spec
from fdr.encoders.preprocessing import Preprocessing
from fdr.encoders.resize import HOST_RESIZES
from fdr.encoders.timm_models import encoder_of
from fdr.errors import InputError
from fdr.loss.encoders import LossEncoder

CPU = EncoderOptions(device="cpu")


def drawn(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def frozen(encoder: AbstractEncoder, **options: object) -> LossEncoder:
    return LossEncoder(encoder.spec.name, encoder, fdr.LossOptions(**options))  # type: ignore[arg-type]


def gradient_of(encode: LossEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features, and the gradient of a fixed combination of them in the images."""
    leaf = images.clone().requires_grad_()
    features = encode(leaf)
    weights = torch.cos(torch.arange(features.numel(), dtype=features.dtype)).view_as(features)
    (features * weights).sum().backward()
    assert leaf.grad is not None
    return features.detach(), leaf.grad


class Moody(nn.Module):
    """Dropout and a batch norm: it shows every forward pass in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5)
        self.sizes: list[int] = []
        self.autocasts: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.autocasts.append(torch.is_autocast_enabled("cpu"))
        return self.drop(self.norm(self.conv(images))).square().mean((2, 3))


class TestGradient:
    """What lies between the images and the network is differentiable in every family that can be."""

    @pytest.mark.parametrize("row", [row for row in ROWS if row.resize.split("+")[0] not in HOST_RESIZES], ids=str)
    def test_preprocessing_of_the_catalogue(self, row) -> None:
        preprocess = Preprocessing(row.resize, row.input_size, row.mean, row.std)
        if row.family == "inception":
            spec = build_spec(row, EncoderOptions(), "seed:0")
            preprocess = InceptionEncoder(nn.Conv2d(1, 1, 1), spec, torch.device("cpu")).preprocess
        images = drawn(1, 20).double().requires_grad_()
        weights = torch.cos(torch.arange(3 * row.input_size**2).double()).view(1, 3, row.input_size, -1)
        (gradient,) = torch.autograd.grad((preprocess(images) * weights).sum(), images)
        step = 1e-3 * drawn(1, 20, seed=1).double()
        with torch.no_grad():
            difference = ((preprocess(images + step) - preprocess(images - step)) * weights).sum() / 2
        assert (gradient * step).sum().item() == pytest.approx(difference.item(), rel=1e-6)

    @pytest.mark.slow
    def test_inception_folded_as_unfolded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its in-place operations and its stem in parts are not in the way of the gradient."""
        monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "encoders"))
        from inception_state import make_inception_state

        row = next(row for row in ROWS if row.name == "inception")
        spec = EncoderSpec(
            "inception", "inception", row.model, "seed:0", "pool", 2048, 299, row.resize, *[row.mean] * 2
        )
        found = []
        for fold in (lambda network: network, FoldedInception):
            network = InceptionNetwork().eval().requires_grad_(False)
            network.load_state_dict(make_inception_state(), strict=False)
            encoder = InceptionEncoder(fold(network), spec, torch.device("cpu"))
            found.append(gradient_of(frozen(encoder), drawn(3, 40)))
        (plain, plain_gradient), (folded, folded_gradient) = found
        assert (folded - plain).norm() < 1e-4 * plain.norm()
        # rounding of 1e-5 flips single ReLUs and max pools of this random network: 2e-2; a lost branch would be order 1
        assert (folded_gradient - plain_gradient).norm() < 5e-2 * plain_gradient.norm()

    def test_a_vision_transformer_of_timm(self) -> None:
        """Against the same network called by hand, in a loop's own autocast and in chunks."""
        timm = pytest.importorskip("timm")
        model = timm.create_model("test_vit3.r160_in1k", pretrained=False, num_classes=0, dynamic_img_size=True)
        spec = EncoderSpec(
            "vit", "timm", "test_vit3", "seed:0", "cls", 96, 48, "bicubic-antialias", (0.5,) * 3, (0.5,) * 3
        )
        encoder = encoder_of(spec, model.eval(), torch.device("cpu"))
        images = drawn(3, 40).requires_grad_()
        resized = nn.functional.interpolate(images, (48, 48), mode="bicubic", antialias=True)
        tokens = model.forward_features((resized - 0.5) / 0.5)[:, 0]
        weights = torch.cos(torch.arange(tokens.numel()).float()).view_as(tokens)
        (expected,) = torch.autograd.grad((tokens * weights).sum(), images)
        with torch.autocast("cpu", torch.bfloat16):
            features, gradient = gradient_of(frozen(encoder, encoder_batch_size=2), drawn(3, 40))
        torch.testing.assert_close(features, tokens.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def test_the_random_encoder(self) -> None:
        encode = frozen(fdr.load_encoder("random", device="cpu"))
        images = drawn(2, 24)
        _, gradient = gradient_of(encode, images)
        assert gradient.isfinite().all() and gradient.abs().sum((1, 2, 3)).min() > 0

    def test_saved_programs(self, tmp_path: Path) -> None:
        """TorchScript and torch.export give the gradient of the module they were made of, and none to its weights."""
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        batch = torch.export.Dim("batch", min=1, max=64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(net).save(str(tmp_path / "net.pt"))
            torch.export.save(torch.export.export(net, (drawn(2),), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
        expected = gradient_of(frozen(CallableEncoder(net)), drawn(5))
        for name in (f"torchscript:{tmp_path}/net.pt", f"export:{tmp_path}/net.pt2"):
            found = gradient_of(frozen(fdr.load_encoder(name, device="cpu")), drawn(5))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)

    def test_an_encoder_that_resizes_in_pillow(self) -> None:
        class Host(TinyEncoder):
            host_preprocess = True

        moments = fdr.Moments.from_features(torch.randn(40, 12))
        with pytest.raises(InputError, match="'tiny' resizes images in Pillow, which has no gradient"):
            fdr.FDLoss(Host(), moments)
        both = {"host": Host(), "tiny": TinyEncoder()}
        loss = fdr.FDLoss(both, dict.fromkeys(both, moments), options=fdr.LossOptions("exact"), weights={"host": 0})
        out = loss(drawn(30).requires_grad_())
        assert out.fd["host"] == pytest.approx(out.fd["tiny"])

    def test_an_encoder_that_detaches(self) -> None:
        encode = frozen(CallableEncoder(lambda images: images.detach().mean((2, 3))))
        with pytest.raises(InputError, match="features without a gradient"):
            encode(drawn(2).requires_grad_())
        assert not encode(drawn(2)).requires_grad


class TestFrozen:
    def test_a_module_of_the_user_stays_as_it_is(self) -> None:
        net = Moody().train()
        net.norm.eval()  # a mode of a part alone is kept as well
        loss = fdr.FDLoss(
            {"net": net}, {"net": fdr.Moments.from_features(torch.randn(40, 5))}, options=fdr.LossOptions("exact")
        )
        images = drawn(6).requires_grad_()
        before = {key: value.clone() for key, value in net.state_dict().items()}
        first = loss(images)
        first.total.backward()
        loss.discard()
        assert loss(images).fd == first.fd  # no dropout
        assert net.training and net.drop.training and not net.norm.training
        assert all(p.requires_grad and p.grad is None for p in net.parameters())
        torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)

    def test_it_does_so_with_chunks_too(self) -> None:
        net = Moody().train()
        encode = frozen(CallableEncoder(net), encoder_batch_size=2)
        net.train()
        _, gradient = gradient_of(encode, drawn(5))
        assert gradient.abs().sum((1, 2, 3)).min() > 0
        assert net.drop.training
        assert all(p.requires_grad and p.grad is None for p in net.parameters())

    def test_float64_is_kept_for_functions_and_by_the_dtype_of_modules(self) -> None:
        double = drawn(2).double()
        assert frozen(CallableEncoder(lambda x: x.mean((2, 3))))(double).dtype == torch.float64
        assert frozen(CallableEncoder(Moody().double()))(double).dtype == torch.float64
        assert frozen(CallableEncoder(Moody()))(double).dtype == torch.float32
        assert frozen(TinyEncoder())(double).dtype == torch.float32
        assert frozen(CallableEncoder(lambda x: x.mean((2, 3))))(drawn(2).bfloat16()).dtype == torch.float32


class TestChunks:
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
    def test_the_result_is_that_of_one_pass(self, batch_size: int) -> None:
        encoder = fdr.load_encoder("random", device="cpu")
        images = drawn(7, 24)
        torch.testing.assert_close(
            gradient_of(frozen(encoder, encoder_batch_size=batch_size), images),
            gradient_of(frozen(encoder), images),
            rtol=1e-6,
            atol=1e-6,
        )

    def test_each_chunk_passes_twice_and_keeps_nothing(self) -> None:
        def kept(encode: LossEncoder) -> int:
            """Bytes that the graph holds besides the images."""
            held: dict[int, int] = {}

            def pack(tensor: Tensor) -> Tensor:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            images = drawn(9).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                features = encode(images)
            held.pop(images.untyped_storage().data_ptr(), None)
            features.sum().backward()
            return sum(held.values())

        net = Moody()
        assert kept(frozen(CallableEncoder(net))) > 9 * 5 * 14 * 14 * 4
        net.sizes.clear()
        assert kept(frozen(CallableEncoder(net), encoder_batch_size=4)) < 1000
        assert sorted(net.sizes) == [1, 1, 4, 4, 4, 4]

    def test_no_second_pass_without_gradient(self) -> None:
        net = Moody()
        frozen(CallableEncoder(net), encoder_batch_size=4)(drawn(9))
        assert net.sizes == [4, 4, 1]

    def test_the_loss_is_the_same(self) -> None:
        images = drawn(20, 24)
        moments = fdr.Moments.from_features(fdr.load_encoder("random", device="cpu")(drawn(300, 24, 1))["features"])
        found = []
        for batch_size in (None, 6):
            loss = fdr.FDLoss(
                "random",
                moments,
                fdr.BatchPopulation(),
                fdr.LossOptions("exact", encoder_batch_size=batch_size),
                encoder_options=CPU,
            )
            leaf = images.clone().requires_grad_()
            out = loss(leaf)
            out.total.backward()
            found.append((out.total.detach(), leaf.grad))
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


class TestPrecision:
    def test_autocast(self) -> None:
        net = Moody()
        exact, _ = gradient_of(frozen(CallableEncoder(net)), drawn(4))
        assert net.autocasts == [False]
        rough, gradient = gradient_of(frozen(CallableEncoder(net), autocast="bf16", encoder_batch_size=4), drawn(4))
        assert net.autocasts == [False, True, True]  # in the second pass as well
        assert rough.dtype == gradient.dtype == torch.float32
        assert 0 < (rough - exact).norm() < 0.02 * exact.norm()

    def test_that_of_the_loop_around_stays_outside(self) -> None:
        net = Moody()
        expected, _ = gradient_of(frozen(CallableEncoder(net)), drawn(4))
        with torch.autocast("cpu", torch.bfloat16):
            found = frozen(CallableEncoder(net))(drawn(4))
        assert net.autocasts == [False, False]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_it_reaches_encoders_that_go_by_their_spec(self) -> None:
        """timm's, OpenCLIP's and transformers' switch autocast themselves, as `spec.dtype` says."""

        class BySpec(TinyEncoder):
            def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.spec.dtype == "bf16"):
                    return {"features": inputs.flatten(1) @ self.matrix.float()}

        encoder = BySpec()
        exact, rough = frozen(encoder), frozen(encoder, autocast="bf16")
        assert 0 < (rough(drawn(4)) - exact(drawn(4))).norm() < 0.02 * exact(drawn(4)).norm()
        assert encoder.spec.dtype == "float32"
        assert rough.spec_hash != exact.spec_hash


class TestCompile:
    def test_a_compiled_generator_and_a_compiled_step(self) -> None:
        """With a backend that traces and generates no code: what is tested is that nothing of the loss breaks it."""
        net = nn.Sequential(nn.Linear(4, 3 * 64), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
        moments = fdr.Moments.from_features(fdr.load_encoder("random", device="cpu")(drawn(300, 8))["features"])
        latents = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
        loss = fdr.FDLoss("random", moments, fdr.BatchPopulation(), fdr.LossOptions("exact"), encoder_options=CPU)

        def step(make: nn.Module) -> Tensor:
            return loss(make(latents)).total

        found = []
        compiled = torch.compile(net, backend="aot_eager")
        for run in (lambda: step(net), lambda: step(compiled), lambda: torch.compile(step, backend="aot_eager")(net)):
            run().backward()
            found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))  # type: ignore[union-attr]
            net.zero_grad()
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [None, 4])
    def test_compiled_encoders(self, batch_size: int | None) -> None:
        encoder = fdr.load_encoder("random", device="cpu")
        found = gradient_of(frozen(encoder, compile_encoders=True, encoder_batch_size=batch_size), drawn(8))
        torch.testing.assert_close(found, gradient_of(frozen(encoder), drawn(8)), rtol=1e-4, atol=1e-5)
