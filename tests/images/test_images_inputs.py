"""What else holds images: patterns, items of datasets and loaders, tensor files, parquet, Hugging Face datasets."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from image_worlds import encoded, photos, read_all, write_files
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

from fdr.errors import InputError
from fdr.images import ImageOptions, open_images
from fdr.images.values import is_pil
from fdr.references.formats.recognise import is_statistics_file

COUNT = 5
PIXELS = photos(COUNT)
LABELS = np.array([2, 0, 1, 1, 0])
NCHW = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2))
SUBSET = [0, 2, 4]
"""Rows of the seeded subset of 3 of 5 with seed 1."""
PNGS = [encoded(image) for image in PIXELS]


def same(source: Any, expected: np.ndarray = PIXELS, **options: Any) -> None:
    opened = open_images(source, ImageOptions(**options))
    assert np.array_equal(np.stack(read_all(opened, num_workers=2)), expected)


def refused(source: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_all(open_images(source))


# Items


class Items:
    """A dataset of the map style."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


PILS = [Image.fromarray(image) for image in PIXELS]
ITEMS = {
    "image": PILS,
    "label": [(image, 3) for image in PILS],
    "label first": [(3, image) for image in PILS],
    "label and index": [(image, 3, 7) for image in NCHW],
    "label tensor": [(image, torch.tensor(3)) for image in NCHW],
    "one-hot": [(image, np.eye(4)[1], "a.png") for image in PIXELS],
    "alone in a tuple": [(image,) for image in NCHW],
    "jpg": [{"jpg": image, "cls": 1, "__key__": "a"} for image in PILS],
    "png bytes": [{"__key__": "a", "png": data, "json": b"{}"} for data in PNGS],
    "named by a format": [{"input.png": image, "target.npy": np.eye(9)} for image in PILS],
    "image and label": [{"label": 1, "Image": image} for image in PILS],
    "pixel_values": [{"pixel_values": image.float() / 255} for image in NCHW],
    "undecoded": [{"image": {"bytes": data, "path": "a.png"}} for data in PNGS],
    "bytes": PNGS,
    "dict and label": [({"bytes": data, "path": None}, 1) for data in PNGS],
}


@pytest.mark.parametrize("name", ITEMS)
def test_items_of_a_dataset(name: str) -> None:
    same(Items(ITEMS[name]))
    same(iter(ITEMS[name]))


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"a": 1, "b": 2}, "keys a, b holds no image"),
        ({"jpg": PILS[0], "mask.png": PILS[0]}, "keys jpg, mask.png holds several images"),
        ((PILS[0], PILS[1]), "is a tuple"),
        ({"image": None}, "is a NoneType; expected an image"),
        ({"image": {"bytes": None, "path": None}}, "is a NoneType"),
        ({"image": b"xx"}, "not an image of a format"),
    ],
)
def test_items_that_are_none(item: Any, sentence: str) -> None:
    refused(Items([item]), sentence)


def test_paths_in_items(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{i}.png": data for i, data in enumerate(PNGS)})
    paths = [str(tmp_path / f"{i}.png") for i in range(COUNT)]
    same(Items([(path, 3) for path in paths]))
    same(Items([{"image": {"bytes": None, "path": path}} for path in paths]))


LOADERS = {
    "tensors": lambda: TensorDataset(NCHW),
    "tensors and labels": lambda: TensorDataset(NCHW, torch.tensor(LABELS)),
    "one-hot": lambda: TensorDataset(NCHW, torch.eye(5)),
    "three": lambda: TensorDataset(NCHW, torch.tensor(LABELS), torch.arange(COUNT)),
    "dicts": lambda: Items([{"image": image, "label": 1} for image in NCHW]),
    "jpg dicts": lambda: Items([{"jpg": image, "cls": 1} for image in NCHW]),
    "pairs": lambda: Items([(image, 1) for image in NCHW]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_datasets_and_loaders_of_torch(name: str) -> None:
    same(LOADERS[name]())
    same(DataLoader(LOADERS[name](), batch_size=2))
    same(DataLoader(LOADERS[name](), batch_size=2, collate_fn=list))


def test_a_loader_of_pil_images() -> None:
    loader = DataLoader(
        Items([(image, 1) for image in PILS]), batch_size=2, collate_fn=lambda b: tuple(zip(*b, strict=True))
    )
    same(loader)


def test_the_digest_of_a_dataset_is_that_of_its_pixels() -> None:
    digests = {open_images(Items(ITEMS[name])).digest for name in ("image", "label", "png bytes", "undecoded")}
    assert len(digests) == 1
    assert open_images(Items(PILS[:4])).digest not in digests


def test_encoded_images_are_read_while_pillow_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_images(Items(PNGS))
    monkeypatch.setitem(sys.modules, "PIL.Image", ModuleType("PIL.Image"))  # as a thread finds it that comes second
    assert not is_pil(PNGS[0])
    monkeypatch.undo()
    assert len(read_all(source)) == COUNT and is_pil(PILS[0])


# Patterns


@pytest.mark.filterwarnings("default:.*in hidden files and folders:fdr.errors.FdrWarning")
def test_patterns_of_image_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"s/{'ab'[i % 2]}/{i}.png": data for i, data in enumerate(PNGS)}
    write_files(tmp_path, files | {"s/a/notes.txt": b"words", "s/a/.hidden.png": b""})
    order = [0, 2, 4, 1, 3]
    monkeypatch.chdir(tmp_path)
    for pattern in ("s/*/*.png", "s/**/*.png", tmp_path / "s" / "*" / "[0-9].png", "s/{0..0}*/*.png"):
        if "{" not in str(pattern):
            same(pattern, PIXELS[order])
    whole, some = open_images("s"), open_images("s/*/*.png")
    assert some.digest == whole.digest and list(some.ids) == list(whole.ids)
    assert (some.name, some.class_names, some.labels.tolist()) == ("s/*/*.png", ("a", "b"), [0, 0, 0, 1, 1])
    same("s/a/*.png", PIXELS[[0, 2, 4]])
    refused("s/*.jpg", r"s/\*\.jpg matches no file")
    refused("s/*", r"s/\* stands for folders \(s/a, \.\.\.\)")
    refused("s/a/*.txt", "unsupported file type")


def test_a_file_with_a_bracket_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    np.savez(tmp_path / "x[1].npz", PIXELS)
    same(tmp_path / "x[1].npz")


@pytest.mark.filterwarnings("default:.*images is measured:fdr.errors.FdrWarning")
def test_patterns_of_shards(tmp_path: Path) -> None:
    for number, part in ((2, PIXELS[:2]), (10, PIXELS[2:])):
        np.savez(tmp_path / f"rank{number}.npz", images=part, arr_1=np.arange(len(part)), extra=PIXELS[:1])
    same(tmp_path / "rank*.npz")
    same(tmp_path / "rank*.npz:images")
    assert open_images(tmp_path / "rank*.npz").labels.tolist() == [0, 1, 0, 1, 2]


# Tensor files


def test_tensor_files(tmp_path: Path) -> None:
    variants = {
        "nchw": NCHW,
        "nhwc": torch.from_numpy(PIXELS),
        "floats": NCHW.float() / 255,
        "double": NCHW.double() / 255,
    }
    for name, tensor in variants.items():
        save_file({"images": tensor.contiguous(), "labels": torch.tensor(LABELS)}, tmp_path / f"{name}.safetensors")
        torch.save({"images": tensor, "labels": torch.tensor(LABELS)}, tmp_path / f"{name}.pt")
        torch.save(tensor, tmp_path / f"alone-{name}.pth")
        for file in (f"{name}.safetensors", f"{name}.pt"):
            same(tmp_path / file)
            same(tmp_path / file, PIXELS[SUBSET], count=3, seed=1)
            assert open_images(tmp_path / file).labels.tolist() == LABELS.tolist()
        same(tmp_path / f"alone-{name}.pth")
    torch.save(NCHW, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(tmp_path / "old.pt")
    for dtype in (torch.bfloat16, torch.float16):
        kept = (NCHW.float() / 255).to(dtype)
        save_file({"a": kept.contiguous()}, tmp_path / "half.safetensors")
        same(tmp_path / "half.safetensors", (kept.float() * 255).round().byte().numpy().transpose(0, 2, 3, 1))


def test_a_torch_file_of_images_may_be_the_reference(tmp_path: Path) -> None:
    torch.save(NCHW, tmp_path / "images.pt")
    torch.save({"mu": torch.zeros(4), "sigma": torch.eye(4)}, tmp_path / "moments.pt")
    torch.save(torch.zeros(30, 4), tmp_path / "features.pt")
    found = {name: is_statistics_file(tmp_path / f"{name}.pt") for name in ("images", "moments", "features")}
    assert found == {"images": False, "moments": True, "features": True}


def test_gray_tensor_files_and_several(tmp_path: Path) -> None:
    gray = NCHW[:, 0].contiguous()
    expected = PIXELS[..., :1].repeat(3, axis=3)
    save_file({"x": gray[:2]}, tmp_path / "0.safetensors")
    save_file({"x": gray}, tmp_path / "1.safetensors")
    same(tmp_path / "{0..1}.safetensors", np.concatenate([expected[:2], expected]))
    save_file({"a": gray, "b": NCHW.contiguous()}, tmp_path / "two.safetensors")
    refused(tmp_path / "two.safetensors", r"holds 2 tensors \(a, b\) and none that is called images; choose one")
    same(tmp_path / "two.safetensors:b")
    refused(tmp_path / "two.safetensors:c", "Unknown tensor of .*'c'")


def test_the_digest_of_a_tensor_file_is_that_of_its_content(tmp_path: Path) -> None:
    digests = set()
    for name, tensor in (("a", NCHW), ("b", NCHW), ("c", NCHW.flip(0))):
        save_file({"x": tensor.contiguous()}, tmp_path / f"{name}.safetensors")
        digests.add(open_images(tmp_path / f"{name}.safetensors").digest)
    assert len(digests) == 2


def test_tensors_that_are_no_images(tmp_path: Path) -> None:
    cases = {
        "[-1, 1]": (NCHW.float() / 127.5 - 1, r"looks like \[-1, 1\]: give \(x \+ 1\) / 2"),
        "integers": (NCHW.long(), r"tensor int64 \[5, 3, 12, 10\] is no tensor of images; expected uint8"),
        "five": (NCHW[None], "expected .N, C, H, W. or"),
        "one": (NCHW[0], "looks like one image"),
        "none": ({"step": 3}, "holds a dict without a tensor"),
        "network": (torch.nn.Conv2d(3, 8, 3).state_dict(), r"2 tensors \(weight, bias\).*the weights of a generator"),
        "objects": (Path("x"), "holds more than tensors"),
    }
    for value, sentence in cases.values():
        torch.save(value, tmp_path / "t.pt")
        refused(tmp_path / "t.pt", sentence)


def test_damaged_tensor_files(tmp_path: Path) -> None:
    torch.save(NCHW.contiguous(), tmp_path / "t.pt")
    data = bytearray((tmp_path / "t.pt").read_bytes())
    at = data.index(NCHW.numpy().tobytes()[:64])
    data[at + 5] ^= 1
    (tmp_path / "t.pt").write_bytes(data)
    refused(tmp_path / "t.pt", "is truncated or damaged")
    save_file({"x": NCHW.contiguous()}, tmp_path / "t.safetensors")
    whole = (tmp_path / "t.safetensors").read_bytes()
    entry = {"dtype": "U8", "shape": [5, 3, 12, 10], "data_offsets": [0, 1800]}
    changed = [{**entry, "shape": [6, 3, 12, 10]}, {**entry, "shape": [-5, -3, 12, 10]}, {**entry, "shape": "x"}]
    changed += [{**entry, "data_offsets": [-9, 1791]}, {**entry, "data_offsets": [10**9, 10**9 + 1800]}, [], {}]
    damaged = [whole[:-1], whole[:20], whole[:4], b"\xff" * 16 + whole]
    for header in changed:
        text = json.dumps({"x": header}).encode()
        damaged.append(struct.pack("<Q", len(text)) + text + NCHW.numpy().tobytes())
    for data in damaged:
        (tmp_path / "t.safetensors").write_bytes(data)
        refused(tmp_path / "t.safetensors", "is not a complete safetensors file: it is truncated or damaged")


# Parquet


def table(values: list[Any], **more: Any) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table({"image": values, **more})


def hub(encoded_images: list[bytes]) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded_images)]


def features(**columns: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def write_parquet(path: Path, content: Any, **options: Any) -> Path:
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(content, path, **options)
    return path


def test_parquet_of_the_hub_and_of_bytes(tmp_path: Path) -> None:
    for name, values in (("hub", hub(PNGS)), ("bytes", PNGS)):
        for group in (1, 2, 99):
            path = write_parquet(tmp_path / f"{name}{group}.parquet", table(values, label=LABELS), row_group_size=group)
            same(path)
            same(path, PIXELS[SUBSET], count=3, seed=1)
            source = open_images(path)
            assert source.labels.tolist() == LABELS.tolist() and source.ids[3] == "image[3]"
            assert [len(batch.rows) for batch in source.batches(2, start=1, stop=4)] == [2, 1]


def test_class_names_of_parquet(tmp_path: Path) -> None:
    names = {"_type": "ClassLabel", "names": ["a", "b", "c"]}
    content = table(hub(PNGS), kind=LABELS).replace_schema_metadata(features(image={"_type": "Image"}, kind=names))
    source = open_images(write_parquet(tmp_path / "a.parquet", content))
    assert (source.class_names, source.labels.tolist()) == (("a", "b", "c"), LABELS.tolist())


def test_columns_of_parquet(tmp_path: Path) -> None:
    two = table(PNGS, other=PNGS[::-1]).rename_columns(["one", "other"])
    path = write_parquet(tmp_path / "two.parquet", two)
    refused(path, r"several columns of images; choose one, as in .*two\.parquet:one")
    same(f"{path}:other", PIXELS[::-1])
    refused(f"{path}:third", "has no column 'third' of images; its columns are one .binary., other .binary.")
    refused(write_parquet(tmp_path / "n.parquet", table([1, 2])), r"holds no images; .* found image .int64.")
    declared = two.replace_schema_metadata(features(other={"_type": "Image"}))
    same(write_parquet(tmp_path / "declared.parquet", declared), PIXELS[::-1])
    odd = two.replace_schema_metadata({b"huggingface": b"[" * 5000})
    refused(write_parquet(tmp_path / "odd.parquet", odd), "several columns")


def test_shards_of_parquet(tmp_path: Path) -> None:
    for number, part in enumerate((PNGS[:2], PNGS[2:])):
        write_parquet(tmp_path / "d" / f"data/train-0000{number}-of-00002.parquet", table(hub(part)))
    (tmp_path / "d" / "README.md").write_text("a card")
    for path in (
        tmp_path / "d",
        tmp_path / "d/data/train-*.parquet",
        tmp_path / "d/data/train-0000{0..1}-of-00002.parquet",
    ):
        same(path)
    write_parquet(tmp_path / "d/data/test-00000-of-00001.parquet", table(hub(PNGS)))
    refused(tmp_path / "d", "give one of them")
    same(tmp_path / "d/data/train-*.parquet")


def test_damaged_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", table(hub(PNGS)))
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:100], b"PAR1" + b"\xff" * 50):
        path.write_bytes(data)
        refused(path, "is not a complete parquet file: it is truncated or damaged")
    path = write_parquet(tmp_path / "sums.parquet", table(PNGS), write_page_checksum=True, compression="none")
    whole = bytearray(path.read_bytes())
    whole[whole.index(PNGS[2]) + 40] ^= 1
    path.write_bytes(whole)
    refused(path, "truncated or damaged .*CRC")
    path = write_parquet(tmp_path / "b.parquet", table([{"bytes": None, "path": "/etc/hostname"}, *hub(PNGS[1:])]))
    refused(path, "its row holds no bytes")
    read = read_all(open_images(path, ImageOptions(on_bad="skip", max_bad=0.5)))
    assert np.array_equal(np.stack(read), PIXELS[1:])


def test_without_pyarrow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1\0\0\0\0")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(tmp_path / "a.parquet", r"a\.parquet needs the package pyarrow, .*: pip install pyarrow")


# Hugging Face datasets


def test_hugging_face_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    path = write_parquet(tmp_path / "p" / "a.parquet", table(hub(PNGS), label=LABELS))
    data = datasets.Dataset.from_parquet(str(path), features=kinds, cache_dir=str(tmp_path / "cache"))
    same(data)
    same(data, PIXELS[SUBSET], count=3, seed=1)
    source = open_images(data)
    assert (source.kind, source.labels.tolist(), source.class_names) == ("hf-dataset", LABELS.tolist(), ("a", "b", "c"))
    assert source.digest == open_images(data.select(range(COUNT))).digest
    assert source.digest != open_images(data.select(range(4))).digest
    same(data.with_format("torch"))
    same(
        data.with_transform(lambda batch: {"image": [image.rotate(180) for image in batch["image"]]}),
        PIXELS[:, ::-1, ::-1],
    )
    same(datasets.DatasetDict({"train": data}))
    refused(datasets.DatasetDict({"train": data, "test": data}), r"has the splits train, test; .* data\['train'\]")
    same(data.to_iterable_dataset())
    data.save_to_disk(tmp_path / "saved")
    same(tmp_path / "saved")
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "dict"))
    same(tmp_path / "dict")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"x")
    refused(tmp_path / "saved", "is no complete saved dataset")
    same(f"hf-dataset:{tmp_path / 'p'}:train")
    assert open_images(f"hf-dataset:{tmp_path / 'p'}").name == f"hf-dataset:{tmp_path / 'p'}"


def test_without_datasets_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf-dataset:uoft-cs/cifar10:test", "needs the package datasets, .*: pip install datasets")
