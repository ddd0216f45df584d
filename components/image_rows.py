"""The rows of datasets of pictures: where they come from, their size, what is given beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from components.row import DatasetRow, Part, RemoteFile, Row, Split, check_place

OF_PICTURES = frozenset(
    {"corrupt", "crop", "flip", "rotate", "caption", "captions", "size", "channels", "fit", "image", "label"}
)
"""Fields that only rows of pictures have."""
Side = Annotated[int, Field(ge=4, le=1024)]


class Corrupt(Row):
    """How a source is made of each picture, one of: noise of this deviation in levels of 255, a hole of this share of
    each side, a picture this many times smaller, a grey one.
    """

    noise: float | None = Field(default=None, gt=0, le=255)
    mask: float | None = Field(default=None, gt=0, lt=1)
    shrink: int | None = Field(default=None, ge=2, le=16)
    grey: Literal[True] | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_a_kind(cls, content: Any) -> Any:
        if not isinstance(content, Mapping | cls):
            raise ValueError("write it with its amount, such as {noise: 25}")
        return content

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = sorted(self.model_dump(exclude_none=True))
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "nothing is given"
            raise ValueError(f"{found}; give one of noise, mask, shrink and grey")
        return self

    @property
    def kind(self) -> Literal["noise", "mask", "shrink", "grey"]:
        """Which of them it is."""
        return next(kind for kind in ("noise", "mask", "shrink", "grey") if getattr(self, kind) is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        return float(getattr(self, self.kind))


class Captions(Row):
    """How captions become tokens: at most `length` of each; `vocabulary` counts the tokens of BPE."""

    tokenizer: Literal["characters", "bytes", "bpe"] = "bpe"
    vocabulary: int = Field(default=1024, ge=262, le=65_536)
    length: int = Field(default=64, ge=1, le=512)


class ImageRow(DatasetRow):
    """What every source of pictures has in common.

    `crop` is the side of the windows that are trained on, and measured in the middle; `flip` and `rotate` turn what
    is trained on by chance.
    """

    modality: Literal["image"] = "image"
    split: Split = Split()
    corrupt: Corrupt | None = None
    crop: int | None = Field(default=None, ge=4, le=1024)
    flip: bool = False
    rotate: bool = False

    @property
    def gives_source(self) -> bool:
        """Whether there is a source beside each picture."""
        return self.corrupt is not None

    @property
    def gives_prompt(self) -> bool:
        """Whether there is a caption beside each picture."""
        return False

    def check_shape(self, channels: int, height: int, width: int) -> None:
        """Raise `ValueError` for what pictures stored as [channels, height, width] cannot be."""
        if self.crop is not None and self.crop > min(height, width):
            raise ValueError(
                f"crop is {self.crop} and the pictures are only {width}x{height}; make crop smaller or size larger"
            )
        height, width = (self.crop, self.crop) if self.crop else (height, width)
        if self.rotate and height != width:
            raise ValueError(
                f"rotate needs square pictures and these are {width}x{height}; set crop, or leave it out"
            )
        if self.corrupt is None:
            return
        factor = self.corrupt.shrink or 1
        if height % factor or width % factor or min(height, width) // factor < 2:
            raise ValueError(
                f"corrupt.shrink is {factor}, which does not divide {width}x{height} into pictures of at least 2x2; "
                "change one of them"
            )
        if self.corrupt.grey and channels == 1:
            raise ValueError("corrupt.grey asks for colour and the pictures have none; set channels to 3")


class DigitsRow(ImageRow):
    """scikit-learn's bundled digits: 1,797 grey images of 8×8."""

    source: Literal["digits"]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_shape(1, 8, 8)
        return self


class IdxRow(ImageRow):
    """MNIST's format. `files` names train_images, train_labels, test_images, test_labels."""

    source: Literal["idx"]
    files: Mapping[Literal["train_images", "train_labels", "test_images", "test_labels"], RemoteFile]


class PicturesRow(ImageRow):
    """Pictures of any size and mode, brought to `size` [height, width] as `fit` says.

    `caption` is what the descriptions of the pictures are called where they lie, `captions` how they are read. Of the
    form `pairs`, a folder `target` holds what is wanted, and `source`, under the same names, what it is made of.
    """

    size: tuple[Side, Side] = (32, 32)
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "pad", "stretch", "cut"] = "crop"
    caption: str | None = None
    captions: Captions = Captions()

    @property
    def paired(self) -> bool:
        """Whether each picture comes with one that it is made of."""
        return False

    @property
    def gives_source(self) -> bool:
        """Whether there is a source beside each picture."""
        return self.paired or self.corrupt is not None

    @property
    def gives_prompt(self) -> bool:
        """Whether there is a caption beside each picture."""
        return self.caption is not None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_shape(self.channels, *self.size)
        if self.paired and self.corrupt is not None:
            raise ValueError("corrupt makes sources and these pictures have their own; leave one of them out")
        if self.caption is None and "captions" in self.model_fields_set:
            raise ValueError(
                "captions says how to read captions and caption does not say where they are; add it"
            )
        return self


class TreeRow(PicturesRow):
    """Pictures in folders: class folders, files with a `metadata.jsonl`, or pairs."""

    form: Literal["pictures", "pairs"] = "pictures"

    @property
    def paired(self) -> bool:
        """Whether each picture comes with one that it is made of."""
        return self.form == "pairs"

    @model_validator(mode="after")
    def _pairs_have_no_captions(self) -> Self:
        if self.paired and self.caption is not None:
            raise ValueError("pairs have no captions; leave caption out")
        return self


class FolderRow(TreeRow):
    """A person's own images in the folder `path`."""

    source: Literal["folder"]
    path: str


class ArchiveRow(TreeRow):
    """Folders of pictures in tar or zip files by URL: one of `all`, or official splits."""

    source: Literal["archive"]
    files: Mapping[Part, RemoteFile]

    @model_validator(mode="after")
    def _one_or_parts(self) -> Self:
        check_place(None, self.files)
        return self


class ParquetRow(PicturesRow):
    """Parquet files with an image column (bytes, or Hugging Face's struct) and, perhaps, a label column.

    They lie at `path`, or `files` by URL: one of `all`, or official splits. `origin` is the column of the pictures
    that those in `image` are made of.
    """

    source: Literal["parquet"]
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}
    image: str = "image"
    label: str | None = "label"
    origin: str | None = None

    @property
    def paired(self) -> bool:
        """Whether each picture comes with one that it is made of."""
        return self.origin is not None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        return self


class UnpairedRow(ImageRow):
    """Two datasets as two domains: pictures like those of `target` are wanted, made of those of `origin`.

    Both are brought to `size` and `channels`, by default those of the target.
    """

    source: Literal["unpaired"]
    target: str
    origin: str
    size: tuple[Side, Side] | None = None
    channels: Literal[1, 3] | None = None
    fit: Literal["crop", "pad", "stretch", "cut"] = "stretch"

    @property
    def gives_source(self) -> bool:
        """Whether there is a source beside each picture."""
        return True

    @model_validator(mode="after")
    def _is_not_spoilt(self) -> Self:
        if self.corrupt is not None:
            raise ValueError("corrupt makes sources and those of unpaired pictures are there; leave it out")
        if self.target == self.origin:
            raise ValueError(f"target and origin are both {self.target}; name two datasets")
        return self
