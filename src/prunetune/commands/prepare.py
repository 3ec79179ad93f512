"""`prunetune prepare <set>`: download, check and arrange a data set; the work itself is in `prunetune.data.prepare`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

OFFICIAL = {  # sets that keep their publisher's layout and splits: what their help says
    "cifar10": "CIFAR-10 in torchvision's own folder (10 classes, 60,000 images; 0.2 GB).",
    "dtd": "DTD (Describable Textures r1.0.1, 47 classes, official partition 1; 0.6 GB, research use).",
    "fgvcaircraft": "FGVC-Aircraft 2013b (100 variants, official splits; 2.75 GB, non-commercial research only).",
}
app = typer.Typer(
    no_args_is_help=True,
    help="Download, check and arrange a published data set. After a break the same command goes on from there.",
)

# A function below has an argument for each option of its command, since typer reads them from there.
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="The prepared set.")]
Downloads = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Archives, finished and half-done.", show_default="<root>/../downloads"),
]
Archive = Annotated[list[Path] | None, typer.Option(metavar="FILE...", help="Downloaded by hand.")]
Images = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Images extracted by hand; they are linked, not copied.")
]
Labels = Annotated[list[Path] | None, typer.Option(metavar="FILE...", help="Label files downloaded by hand.")]
KeepArchives = Annotated[
    bool, typer.Option("--keep-archives", help="Do not delete the downloaded archives afterwards.")
]
NoChecksum = Annotated[
    bool, typer.Option("--no-checksum", help="Take archives and file lists that differ from the published ones.")
]
NoCheckCounts = Annotated[
    bool,
    typer.Option("--no-check-counts", help="Take other numbers of classes or images than the protocol's."),
]
SplitSeed = Annotated[int, typer.Option(help="Another seed gives another choice of images and another split.")]
PerClass = Annotated[int, typer.Option(help="Images of a class.")]


class ListOptions(TyperCommand):
    """A command whose options may take several words, `--archive a.zip b.zip`, as a shell's `*.zip` gives them."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Read `--archive a b` as `--archive a --archive b`."""
        several = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, repeated(args, several))


def repeated(words: Sequence[str], several: set[str]) -> list[str]:
    """Return the words with an option's name before each of its values, for the options that take several."""
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
    classes: Annotated[str, typer.Option(help="A, B or findings joined by commas.")] = "A",
    group_by: Annotated[Literal["image", "patient"], typer.Option(help="What never spans splits.")] = "image",
    split_seed: SplitSeed = 0,
    per_class: PerClass = 500,
    keep_archives: KeepArchives = False,
    no_checksum: NoChecksum = False,
    no_check_counts: NoCheckCounts = False,
) -> None:
    """CXRB10 (10 balanced classes of NIH ChestX-ray14, 500 single-finding images each; 45 GB pass through).

    Chooses the images from the label lists, downloads the twelve archives one after another, keeps the chosen images
    of each and deletes it, and splits them 300/100/100 by seed into <root>/{train,val,test}/<finding>/;
    <root>/splits.csv is the file list. Archives that are done are skipped. Free use; please cite Wang et al. (CVPR
    2017) and acknowledge the NIH Clinical Center. The labels are NIH's CSV or the CheXNet lists (the 2017 lists).
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
        int | None, typer.Option(min=0, max=4, help="The authors' fold, nine classes, all photographs.")
    ] = None,
    keep_archives: KeepArchives = False,
    no_checksum: NoChecksum = False,
    no_check_counts: NoCheckCounts = False,
) -> None:
    """DeepWeeds (8 species without Negative, 1,000 photographs each; 0.5 GB, CC BY 4.0).

    Downloads labels and images, chooses and splits them 600/200/200 by seed into <root>/{train,val,test}/<species>/;
    <root>/splits.csv is the file list. With --official-fold the authors' split of all nine labels is used instead.
    The labels are labels.csv, or the train, val and test file of a fold.
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
