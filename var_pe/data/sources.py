"""Sources of pictures: `DataConfig` names one, `open_source` opens one of its splits.

A source gives a picture and its label by number. `images.py` brings pictures to one size; `streams.py` reads
sources in order, without numbers.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from var_pe.data.coco import CocoFolder
from var_pe.data.folder_source import Folder, FolderSource
from var_pe.data.folders import ARCHIVES, composed
from var_pe.data.idx import FashionMNIST
from var_pe.data.image_set import ImageSource
from var_pe.data.mask_folder import MaskFolder
from var_pe.data.moving_shapes import MovingShapes
from var_pe.data.part import drawn, drawn_of_each, of_classes, part_of, readable
from var_pe.data.rows import TableSource
from var_pe.data.shapes import Shapes
from var_pe.data.tables import Tables, parquet_files
from var_pe.data.videos import SUFFIXES, VideoFolder
from var_pe.data.walk import kind_of, listed
from var_pe.settings.fields import (
    CHANGES_NO_WEIGHTS,
    Doc,
    FilePath,
    NonNegative,
    OneOf,
    Positive,
    PositiveFloat,
    ShareBelowOne,
    WholeNumber,
    section,
)
from var_pe.settings.files import show


@dataclass(frozen=True)
class Known:
    """A data set known by name: its place and columns on the hub, and its published size."""

    hub_id: str
    image_column: str
    label_column: str
    classes: int
    train_images: int
    test_split: str = "test"


KNOWN = {
    "fashion_mnist": Known("zalando-datasets/fashion_mnist", "image", "label", 10, 60_000),
    "cifar10": Known("uoft-cs/cifar10", "img", "label", 10, 50_000),
    "cifar100": Known("uoft-cs/cifar100", "img", "fine_label", 100, 50_000),
    "imagenet": Known("ILSVRC/imagenet-1k", "image", "label", 1000, 1_281_167, test_split="validation"),
}
# Those of pictures whose name is all that has to be said
BY_NAME = ("shapes", *KNOWN)
SOURCES = (*BY_NAME, "imagefolder", "parquet", "hub", "masks", "coco", "moving_shapes", "videos")
# Those whose pictures come with masks or boxes
WITH_TRUTH = ("masks", "coco")

# Those of clips, and of pictures that are made up
OF_CLIPS = ("moving_shapes", "videos")
MADE_UP = ("shapes", "moving_shapes")

# Sources whose pictures are small enough to keep their size
NATIVE = (*MADE_UP, "fashion_mnist")
# Where Debian's package dataset-fashion-mnist puts its files
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
UNLABELLED = "unlabelled"
# Settings that were added when results had been kept by the others
LATER = ("classes", "margin", "trim", "in_memory", "frames", "train_share")
# There are 786,432 different pictures of shapes; the labels of all that are asked for are held in memory.
ShapesCount = Annotated[int, Ge(1), Le(1_000_000)]
FramesCount = Annotated[int, Ge(1), Le(10_000)]


@section
class DataConfig:
    """Which pictures a run reads and how they become images of one size."""

    source: Annotated[str, OneOf(SOURCES), Doc("a known data set, or the kind of files that are read")] = (
        "shapes"
    )
    path: Annotated[
        FilePath | None,
        Doc("local folder (or one parquet file); null: the hub, or Debian's folder of fashion_mnist"),
    ] = None
    hub_id: Annotated[str | None, Doc("data set on the Hugging Face hub; null: the known one")] = None
    hub_config: Annotated[
        str | None, Doc("configuration of a hub data set that has several; null: its default")
    ] = None
    image_column: Annotated[
        str | None, Doc("column that holds the pictures; null: the known one, or image")
    ] = None
    label_column: Annotated[
        str | None,
        Doc(
            "column that holds the classes; null: the known one, or label; unlabelled: train without classes"
        ),
    ] = None
    train_split: Annotated[str, Doc("split to train on")] = "train"
    test_split: Annotated[
        str | None, Doc("split to evaluate on; null: test, for imagenet validation"), CHANGES_NO_WEIGHTS
    ] = None
    hold_out: Annotated[
        ShareBelowOne,
        Doc("for a folder without a test split: share of each class that becomes the test split; 0: none"),
    ] = 0.0
    classes: Annotated[
        list[str],
        Doc(
            "names of the classes that are used, in the order of their labels; []: all; of masks: the names "
            "of all values from 0 on, []: those in classes.txt"
        ),
    ] = field(default_factory=list)
    limit: Annotated[
        Positive | None,
        Doc(
            "largest number of pictures to use of each split, drawn from all of it (from a stream: the "
            "first ones); null: all"
        ),
    ] = None
    subset_seed: Annotated[
        NonNegative | None,
        Doc("seed for drawing a part of the images, as for limit; null: take the first ones as stored"),
    ] = 0
    train_share: Annotated[
        float,
        Gt(0),
        Le(1),
        Doc("share of every class of the training split that is trained on, drawn by subset_seed; 1: all"),
    ] = 1.0
    shapes_train: Annotated[
        ShapesCount, Doc("pictures in the training split of shapes, clips in that of moving_shapes")
    ] = 50_000
    shapes_test: Annotated[ShapesCount, Doc("pictures or clips in their test split"), CHANGES_NO_WEIGHTS] = (
        10_000
    )
    frames: Annotated[FramesCount, Doc("frames of a clip: of moving_shapes, or read of each of videos")] = 8
    height: Annotated[Positive, Doc("pixels of an image from top to bottom")] = 32
    width: Annotated[Positive, Doc("pixels of an image from left to right")] = 32
    channels: Annotated[Literal[1, 3], WholeNumber, Doc("1 for grey, 3 for colour")] = 3
    framing: Annotated[
        Literal["crop", "pad", "fit"] | None,
        Doc(
            "crop: resize to cover, then crop; fit: resize to lie inside, centre; pad: keep pixels, centre; "
            "null: pad if native size"
        ),
    ] = None
    trim: Annotated[bool, Doc("cut off transparent margins of a picture before it is framed")] = False
    margin: Annotated[Literal["black", "white"], Doc("with fit and pad: colour around the picture")] = "black"
    # Below 1, the picture would not fill the crop.
    resize_factor: Annotated[
        float, Ge(1), Doc("with crop: the picture is resized to cover this multiple of the image's sides")
    ] = 1.125
    zoom: Annotated[
        PositiveFloat, Doc("with pad: the picture is resized to this multiple of its own sides")
    ] = 1.0
    random_crop: Annotated[
        bool, Doc("with crop: crop anywhere in training (evaluation always crops the centre)")
    ] = True
    flip: Annotated[bool, Doc("mirror every other picture left to right in training")] = False
    in_memory: Annotated[
        bool,
        Doc("keep pictures in memory, framed, once they have been read; not with random_crop"),
        CHANGES_NO_WEIGHTS,
    ] = False
    on_corrupt: Annotated[
        Literal["stop", "skip"],
        Doc(
            "what happens at a picture that cannot be read: stop, or skip it (in training, the next "
            "takes its place)"
        ),
    ] = "stop"
    streaming: Annotated[
        bool,
        Doc(
            "read parquet, imagefolder or hub data as a stream, in order, while training, without a "
            "local copy"
        ),
    ] = False
    shuffle_buffer: Annotated[
        Positive, Doc("with streaming: pictures of tables held in memory to shuffle among")
    ] = 1000

    def __post_init__(self) -> None:
        if self.source in ("imagefolder", "parquet", "videos", *WITH_TRUTH) and not self.path:
            raise ValueError(f"source={self.source} needs data.path, the folder that holds it")
        if self.source == "hub" and not self.hub_id:
            raise ValueError("source=hub needs data.hub_id, such as data.hub_id=uoft-cs/cifar10")
        names = [composed(name) for name in self.classes]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"classes names {twice[0]} twice")
        if self.classes and self.label_column == UNLABELLED:
            raise ValueError(
                f"classes={show(self.classes)} chooses by class, but data.label_column={UNLABELLED} "
                f"reads no classes"
            )

        if self.hold_out and (self.source in (*MADE_UP, "parquet", "hub", "coco") or not self.path):
            raise ValueError(
                f"hold_out={self.hold_out} is for folders of pictures (data.source=imagefolder), "
                f"got data.source={self.source}"
            )

        if self.streaming and self.train_share < 1:
            raise ValueError(
                f"train_share={self.train_share:g} draws pictures by index, which a stream does not have: "
                "set data.streaming=false"
            )
        if self.in_memory and self.streaming:
            raise ValueError(
                "in_memory keeps pictures by index, which a stream does not have: set data.streaming=false"
            )
        if self.in_memory and self.frames_by == "crop" and self.random_crop:
            raise ValueError(
                "in_memory keeps each picture as it was framed first, but data.random_crop crops it anew "
                "in every draw: set data.random_crop=false, or data.framing=fit"
            )

        if self.streaming and self.source in MADE_UP:
            raise ValueError(
                f"streaming is for parquet, imagefolder and hub data; data.source={self.source} is "
                "generated, not read"
            )
        if self.flip and self.source == "moving_shapes":
            raise ValueError(
                "flip mirrors clips, so that a shape that moves right would move left under the same "
                "label: set data.flip=false for data.source=moving_shapes"
            )

        # Masks and boxes belong to one picture, and to the whole of it; the frames of a clip to each other.
        if self.source in (*WITH_TRUTH, "videos") and (
            self.streaming or self.trim or self.on_corrupt == "skip"
        ):
            raise ValueError(
                f"source={self.source} takes streaming=false, trim=false and on_corrupt=stop, got "
                f"streaming={show(self.streaming)}, trim={show(self.trim)}, on_corrupt={self.on_corrupt}"
            )

    @property
    def frames_by(self) -> str:
        """crop, fit or pad: `framing`, or what null stands for."""
        return self.framing or ("pad" if self.source in NATIVE else "crop")

    @property
    def augments(self) -> bool:
        """Whether an image of the training split looks different in another epoch."""
        return self.flip or (self.frames_by == "crop" and self.random_crop)

    def at_size(self, height: int, width: int) -> "DataConfig":
        """The same pictures as images of another size.

        Crops are made anew. A padded picture is zoomed as far as it stays whole; the rest is margin. `shapes`
        are drawn at the new size.
        """
        zoom = self.zoom
        if self.frames_by == "pad" and self.source not in MADE_UP:
            zoom *= min(height / self.height, width / self.width)
        return replace(self, height=height, width=width, zoom=zoom)

    def record(self) -> dict[str, object]:
        """All settings by name, for results that are kept by them.

        Settings that came later are left out at their defaults, so that what was kept before them holds.
        """
        plain = asdict(DataConfig())
        mine = asdict(self)
        return {name: mine[name] for name in mine if name not in LATER or mine[name] != plain[name]}

    def split(self, train: bool) -> str:
        """The name of the training or of the test split."""
        if train:
            return self.train_split
        if self.test_split:
            return self.test_split
        return KNOWN[self.source].test_split if self.source in KNOWN else "test"


def find_data(config: DataConfig) -> Tables | Folder:
    """Where the config's parquet files, folder of pictures or hub data set are.

    Raises:
        ValueError: nothing is there, or it is not what the source should be.
    """
    if config.path is None:
        hub_id = config.hub_id or KNOWN[config.source].hub_id
        return Tables("hub", hub_id, config.hub_config, config.streaming)

    path = place_of(config.path)

    # A local copy of a known data set may be stored either way.
    of_files = config.source in ("imagefolder", "videos")
    in_tables = config.source == "parquet" or (not of_files and bool(parquet_files(path)))
    if in_tables:
        return Tables("parquet", str(path), None, config.streaming)
    check_is_folder(path, config.path)

    image_column, label_column = columns(config, "imagefolder")
    return Folder(
        path,
        config.split(train=True),
        config.split(train=False),
        image_column,
        label_column,
        config.hold_out,
        config.on_corrupt == "skip",
        tuple(map(composed, config.classes)),
        SUFFIXES if config.source == "videos" else None,
    )


def place_of(given: str) -> Path:
    """What data.path names.

    Raises:
        ValueError: nothing is there.
    """
    path = Path(given)
    if not path.exists():
        seen_from = "" if path.is_absolute() else f", seen from the working folder {Path.cwd()}"
        raise ValueError(f"data.path={given} does not exist{seen_from}")
    if path.is_dir() and not listed(path):
        raise ValueError(f"data.path={given} is an empty folder")
    return path


def check_is_folder(path: Path, given: str) -> None:
    """Checks that what data.path names is a folder.

    Raises:
        ValueError: it is a file.
    """
    if not path.is_dir():
        packed = "; unpack it and name the folder" if kind_of(path.name) in ARCHIVES else ""
        raise ValueError(f"data.path={given} is a file, but pictures are read from a folder{packed}")


def columns(config: DataConfig, kind: str) -> tuple[str, str | None]:
    """Names of the image column and of the label column (None: labels are not wanted)."""
    image, label = "image", "label"
    if config.source in KNOWN and kind != "imagefolder":
        image, label = KNOWN[config.source].image_column, KNOWN[config.source].label_column

    image = config.image_column or image
    label = config.label_column or label
    return image, None if label == UNLABELLED else label


def fashion_folder(config: DataConfig) -> Path | None:
    """The folder with Fashion-MNIST's IDX files, or None if the data are read as a table."""
    if config.source != "fashion_mnist":
        return None

    folder = Path(config.path) if config.path else FASHION_FOLDER
    return folder if any(folder.glob("*-ubyte*")) and not config.hub_id else None


def open_source(config: DataConfig, train: bool) -> ImageSource:
    """One split of the configured source, or the part of it that data.limit and data.train_share ask for.

    Pictures to test on that cannot be read are left out, where data.on_corrupt allows it: another one in
    their place would count twice.

    Raises:
        ValueError: the data are missing, empty or cannot be reached, or they lack a split or a column.
    """
    source = open_split(config, train)
    if config.limit is not None and config.limit < len(source):
        source = part_of(source, drawn(len(source), config.limit, config.subset_seed))
    if train and config.train_share < 1:
        chosen = drawn_of_each(source.labels_N, config.train_share, config.subset_seed)
        source = part_of(source, chosen)
    return readable(source) if config.on_corrupt == "skip" and not train else source


def open_split(config: DataConfig, train: bool) -> ImageSource:
    """The split's pictures of the classes that are used, whatever data.limit says."""
    if config.source == "shapes":
        count = config.shapes_train if train else config.shapes_test
        shapes = Shapes(count, config.height, config.width, "train" if train else "test")
        return of_classes(shapes, config.classes, train)
    if config.source == "moving_shapes":
        count = config.shapes_train if train else config.shapes_test
        split = "train" if train else "test"
        moving = MovingShapes(count, config.frames, config.height, config.width, split)
        return of_classes(moving, config.classes, train)

    if config.source in WITH_TRUTH:
        assert config.path is not None, "the config has been checked"
        root = place_of(config.path)
        check_is_folder(root, config.path)
        split, classes = config.split(train), tuple(map(composed, config.classes))
        if config.source == "coco":
            return CocoFolder(root, split, train_split=config.train_split, classes=classes)
        return MaskFolder(
            root,
            split,
            train=train,
            train_split=config.train_split,
            hold_out=config.hold_out,
            classes=classes,
        )

    if config.streaming:
        raise ValueError(
            "data.streaming=true reads pictures in order: use open_stream, or set data.streaming=false"
        )
    folder = fashion_folder(config)
    if folder is not None:
        return of_classes(FashionMNIST(folder, train), config.classes, train)

    tables = find_data(config)
    if isinstance(tables, Folder):
        if config.source == "videos":
            return VideoFolder(tables, train, config.frames)
        return FolderSource(tables, train)
    image_column, label_column = columns(config, tables.kind)
    table = TableSource(tables, config.split(train), config.train_split, image_column, label_column)
    return of_classes(table, config.classes, train)
