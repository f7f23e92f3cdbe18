"""What an explanation consists of, and how it is written as CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fdr.explanation.notebook import explanation_to_html
from fdr.reports import Report, data_frame, format_number

SCHEMA = "fdr-explain/1"
COLUMNS = ("encoder", "output", "rank", "id", "row", "class", "influence", "nearest", "distance")


@dataclass(frozen=True)
class ClassShare:
    """One class of the samples."""

    name: str
    count: int
    """Number of samples of the class."""
    influence: float
    """The sum of the influences of its images, in units of FD: above 0 for a class that raises FD."""
    reference_count: int | None = None
    """Number of reference images of the class; None for a reference without labels."""
    fd_debiased: float | None = None
    """Debiased FD between the samples and the reference images of the class; None where there are too few for it."""


@dataclass(frozen=True)
class Near:
    """The reference image that is nearest to a sample."""

    row: int
    """Its row in the reference."""
    distance: float
    """The Euclidean distance between the features."""


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A map of what FD under one encoder looks at in one image (docs/explain.md)."""

    values: np.ndarray
    """float32 [h, w] in [0, 1], from the position that matters least to the one that matters most in this image."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the map in shares of the image's width and height. It is not 0, 0, 1, 1 where the
    encoder crops the image, or pads it."""

    def to_dict(self) -> dict[str, Any]:
        """The map as JSON can write it, to four decimals."""
        return {
            "box": [round(side, 4) for side in self.box],
            "values": np.round(self.values.astype(np.float64), 4).tolist(),
        }


@dataclass(frozen=True, eq=False)
class EncoderInfluences:
    """How each image moves FD under one encoder."""

    encoder: str
    output: str
    fd: float
    stderr: float | None
    influences: np.ndarray
    """float64 [N], in units of FD: to first order, by how much FD would fall if the image were left out."""
    rows: np.ndarray
    """int64 [N]: the row of each image in the sample set, without bad images."""
    worst_count: int
    """Number of images in the worst 1 %, at least 1."""
    worst_share: float
    """The share of the worst 1 % in the sum of all influences above 0."""
    fd_without_worst: float
    """FD of the other images, computed anew."""
    classes: tuple[ClassShare, ...] | None = None
    """The classes, from the one that raises FD most; None for samples without labels."""
    nearest: Mapping[int, Near] = field(default_factory=dict)
    """The nearest reference image by the position of the sample, for the images at both ends and those of `closest`;
    empty where the reference is no images."""
    closest: tuple[int, ...] = ()
    """Positions of the samples that lie nearest to a reference image, the nearest first; empty unless asked for."""
    median_distance: float | None = None
    """The median over all samples of the distance to the nearest reference image; None unless `closest` was asked
    for."""
    notes: tuple[str, ...] = ()
    heat_maps: Mapping[int, HeatMap] = field(default_factory=dict)
    """Maps of what FD looks at, by the position of the sample, for the images at both ends; empty unless asked for."""
    heat_map_layer: str | None = None
    """The layer of the encoder that the heat-maps are of."""

    @cached_property
    def ranking(self) -> np.ndarray:
        """int64 [N]: positions of the images, from the one that raises FD most."""
        return np.argsort(-self.influences, kind="stable")

    def __repr__(self) -> str:
        return f"<EncoderInfluences {self.encoder}: FD {format_number(self.fd)}, {len(self.rows)} images>"

    def ends(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the `count` most and the `count` least harmful images, worst and best first; fewer of a small
        set, so that no image is in both."""
        count = min(count, len(self.ranking) // 2)
        return self.ranking[:count], self.ranking[::-1][:count]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which images of a sample set raise FD most, by encoder."""

    report: Report
    """The FD that is explained, with its signatures."""
    ids: tuple[str, ...]
    """The name of each row of the sample set, bad images included."""
    labels: tuple[str, ...] | None
    """The class of each row; None for samples without labels."""
    encoders: tuple[EncoderInfluences, ...]
    reference_ids: tuple[str, ...] = ()
    """The name of each row of the reference; empty where it is no images."""

    def ranked(self, found: EncoderInfluences) -> list[dict[str, Any]]:
        """The images of one encoder, from the one that raises FD most."""
        return [
            {
                "rank": rank,
                "id": self.ids[row],
                "row": row,
                **({} if self.labels is None else {"class": self.labels[row]}),
                "influence": float(found.influences[place]),
                **self._near(found, place),
                **({"heat_map": found.heat_maps[place].to_dict()} if place in found.heat_maps else {}),
            }
            for rank, (place, row) in enumerate(
                zip(found.ranking.tolist(), found.rows[found.ranking].tolist(), strict=True), start=1
            )
        ]

    def _near(self, found: EncoderInfluences, place: int) -> dict[str, Any]:
        near = found.nearest.get(place)
        return {} if near is None else {"nearest": self.reference_ids[near.row], "distance": near.distance}

    def __repr__(self) -> str:
        parts = ", ".join(f"{found.encoder} FD {format_number(found.fd)}" for found in self.encoders)
        return f"<Explanation of {self.report.samples['source']}: {parts}, {len(self.ids)} images>"

    def _repr_html_(self) -> str:
        return explanation_to_html(self)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each image and encoder, from the image that raises FD most.

        Raises `InputError` if pandas is not installed.
        """
        rows = [
            {"encoder": found.encoder, "output": found.output, **image}
            for found in self.encoders
            for image in self.ranked(found)
        ]
        return data_frame(rows, COLUMNS)

    def to_csv(self) -> str:
        """A line for each image and encoder, from the image that raises FD most."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        for found in self.encoders:
            for line in self.ranked(found):
                writer.writerow({"encoder": found.encoder, "output": found.output, **line})
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON can write it; the report stands under `report`."""
        return {
            "schema": SCHEMA,
            "report": self.report.to_dict(),
            "encoders": [
                {**_facts(found), **self._closest(found), "images": self.ranked(found)} for found in self.encoders
            ],
        }

    def _closest(self, found: EncoderInfluences) -> dict[str, Any]:
        """The samples nearest to a reference image, where they were asked for."""
        if found.median_distance is None:
            return {}
        rows = found.rows.tolist()
        images = [
            {"id": self.ids[rows[place]], "row": rows[place],
             **({} if self.labels is None else {"class": self.labels[rows[place]]}),
             "influence": float(found.influences[place]), **self._near(found, place)}
            for place in found.closest
        ]  # fmt: skip
        return {"closest": {"median_distance": found.median_distance, "images": images}}


def _facts(found: EncoderInfluences) -> Mapping[str, Any]:
    return {
        "encoder": found.encoder,
        "output": found.output,
        "fd": found.fd,
        "stderr": found.stderr,
        "n": len(found.rows),
        "worst": {"n": found.worst_count, "share": found.worst_share, "fd_without": found.fd_without_worst},
        "classes": None if found.classes is None else [asdict(one) for one in found.classes],
        "notes": list(found.notes),
        **({} if found.heat_map_layer is None else {"heat_map_layer": found.heat_map_layer}),
    }
