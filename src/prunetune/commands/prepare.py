"""`prunetune prepare <set>`: the options of the command. `prunetune.data.prepare` does the work."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

OFFICIAL = {  # Maps each data set that keeps its official layout and splits to its help text.
    "cifar10": "CIFAR-10 in torchvision's own folder (10 classes, 60,000 images; 0.2 GB).",
    "dtd": "DTD (Describable Textures r1.0.1, 47 classes, official partition 1; 0.6 GB, research use).",
    "fgvcaircraft": "FGVC-Aircraft 2013b (100 variants, official splits; 2.75 GB, non-commercial research only).",
}
app = typer.Typer(
    no_args_is_help=True,
    help="Download, check and arrange a published data set. If it is interrupted, the same command continues.",
)

# Each function below has one argument per option, since typer reads the options of a command from its signature.
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="Where to put the prepared data set.")]
Downloads = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where to download archives.", show_default="<root>/../downloads"),
]
Archive = Annotated[list[Path] | None, typer.Option(metavar="FILE...", help="Archives downloaded by hand.")]
Images = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Images extracted by hand; they are linked, not copied.")
]
Labels = Annotated[list[Path] | None, typer.Option(metavar="FILE...", help="Label files downloaded by hand.")]
KeepArchives = Annotated[
    bool, typer.Option("--keep-archives", help="Keep the downloaded archives. By default they are deleted.")
]
NoChecksum = Annotated[
    bool, typer.Option("--no-checksum", help="Accept archives and file lists that differ from the published ones.")
]
NoCheckCounts = Annotated[
    bool,
    typer.Option("--no-check-counts", help="Accept unexpected numbers of classes or images."),
]
SplitSeed = Annotated[int, typer.Option(help="The seed that determines the chosen images and the split.")]
PerClass = Annotated[int, typer.Option(help="Number of images per class.")]


class ListOptions(TyperCommand):
    """A command whose options may take several values, as in `--archive *.zip`, which the shell expands."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Read `--archive a b` as `--archive a --archive b`."""
        several = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, repeated(args, several))


def repeated(words: Sequence[str], several: set[str]) -> list[str]:
    """Return the words with the name of an option repeated before each of its values.

    Args:
        words: the words of the command line.
        several: the options that may take several values.
    """
    result: list[str] = []
    option, num_values = None, 0
    for word in words:
        if word.startswith("-"):
            option, num_values = (word if word in several else None), 0
        elif option is not None:
            if num_values:
                result.append(option)
            num_values += 1
        result.append(word)
    return result


def _add_official(name: str, about: str) -> None:
    @app.command(name, cls=ListOptions, help=f"{about}\n\nDownloads the archive, checks it, extracts it and counts it.")
    def prepare(
        root: Root = Path("data") / name,
        downloads: Downloads = None,
        archive: Archive = None,
        keep_archives: KeepArchives = False,
        no_checksum: NoChecksum = False,
        no_check_counts: NoCheckCounts = False,
    ) -> None:
        from prunetune.data.prepare import command

        module = import_module(f"prunetune.data.prepare.{name}")
        where = command.Place.at(
            root, downloads, archive, None, keep_archives, verify=not no_checksum, check_counts=not no_check_counts
        )
        command.run(name, where.root, lambda: module.prepare(where))


for _name, _about in OFFICIAL.items():
    _add_official(_name, _about)


@app.command(cls=ListOptions)
def cxrb10(
    root: Root = Path("data/cxrb10"),
    downloads: Downloads = None,
    archive: Archive = None,
    images: Images = None,
    labels: Labels = None,
    classes: Annotated[
        str, typer.Option(help="The set A or B of ten findings, or findings separated by commas.")
    ] = "A",
    group_by: Annotated[
        Literal["image", "patient"], typer.Option(help="Split by image, or keep all images of a patient in one split.")
    ] = "image",
    split_seed: SplitSeed = 0,
    per_class: PerClass = 500,
    keep_archives: KeepArchives = False,
    no_checksum: NoChecksum = False,
    no_check_counts: NoCheckCounts = False,
) -> None:
    """CXRB10 (10 balanced classes of NIH ChestX-ray14, 500 single-finding images each; downloads 45 GB).

    Chooses the images from the label lists, then downloads the twelve archives one after another. It keeps the chosen
    images of an archive and deletes the archive. Images are split 300/100/100 by seed into
    <root>/{train,val,test}/<finding>/, and <root>/splits.csv is the file list. Archives that are done are skipped.
    Free use; please cite Wang et al. (CVPR 2017) and acknowledge the NIH Clinical Center. The labels are NIH's CSV or
    the CheXNet lists (the 2017 lists).
    """
    from prunetune.data.prepare import command, cxrb10

    where = command.Place.at(
        root, downloads, archive, images, keep_archives, verify=not no_checksum, check_counts=not no_check_counts
    )
    command.run("cxrb10", where.root, lambda: cxrb10.prepare(where, labels, classes, group_by, split_seed, per_class))


@app.command(cls=ListOptions)
def deepweeds(
    root: Root = Path("data/deepweeds"),
    downloads: Downloads = None,
    archive: Archive = None,
    images: Images = None,
    labels: Labels = None,
    split_seed: SplitSeed = 0,
    per_class: PerClass = 1000,
    official_fold: Annotated[
        int | None, typer.Option(min=0, max=4, help="Use this fold of the authors, with nine classes and all images.")
    ] = None,
    keep_archives: KeepArchives = False,
    no_checksum: NoChecksum = False,
    no_check_counts: NoCheckCounts = False,
) -> None:
    """DeepWeeds (8 species without Negative, 1,000 photographs each; 0.5 GB, CC BY 4.0).

    Downloads labels and images, chooses images and splits them 600/200/200 by seed into
    <root>/{train,val,test}/<species>/; <root>/splits.csv is the file list. With --official-fold the authors' split of
    all nine labels is used instead. The labels are labels.csv, or the train, val and test file of a fold.
    """
    from prunetune.data.prepare import command, deepweeds

    where = command.Place.at(
        root, downloads, archive, images, keep_archives, verify=not no_checksum, check_counts=not no_check_counts
    )
    command.run(
        "deepweeds",
        where.root,
        lambda: deepweeds.prepare(where, labels, split_seed, per_class, official_fold=official_fold),
    )


@app.command(cls=ListOptions)
def sketch(
    root: Root = Path("data/sketch"),
    downloads: Downloads = None,
    archive: Archive = None,
    images: Images = None,
    split_seed: SplitSeed = 0,
    keep_archives: KeepArchives = False,
    no_checksum: NoChecksum = False,
    no_check_counts: NoCheckCounts = False,
) -> None:
    """Sketch (TU-Berlin, Eitz et al. 2012; 250 classes of 80 drawings; 0.5 GB, CC BY 4.0).

    Downloads the archive, checks that every class has 80 drawings and splits them 48/16/16 by seed into
    <root>/{train,val,test}/<class>/; <root>/splits.csv is the file list.
    """
    from prunetune.data.prepare import command, sketch

    where = command.Place.at(
        root, downloads, archive, images, keep_archives, verify=not no_checksum, check_counts=not no_check_counts
    )
    command.run("sketch", where.root, lambda: sketch.prepare(where, split_seed))
