"""Prepare CXRB10 (10 balanced classes of NIH ChestX-ray14, 500 single-finding images each; 45 GB pass through).

Chooses the images from the label lists, downloads the twelve archives one after another, keeps the chosen images of
each and deletes it, and splits them 300/100/100 by seed into <root>/{train,val,test}/<finding>/; <root>/splits.csv is
the file list. Run it again after a break: archives that are done are skipped. Free use; please cite Wang et al. (CVPR
2017) and acknowledge the NIH Clinical Center.
"""

from pathlib import Path

from prunetune.data.prepare import command, cxrb10


def main() -> None:
    parser = command.parser("cxrb10", __doc__, images=True)
    add = parser.add_argument
    add("--labels", type=Path, nargs="+", metavar="FILE", help="NIH's CSV or CheXNet lists (the 2017 lists)")
    add("--classes", default="A", help="A, B or findings joined by commas (%(default)s)")
    add("--group-by", choices=("image", "patient"), default="image", help="what never spans splits (%(default)s)")
    add("--split-seed", type=int, default=0, help="another seed, another choice and split (%(default)s)")
    add("--per-class", type=int, default=cxrb10.PER_CLASS, help="images of a class (%(default)s)")
    options = parser.parse_args()
    where = command.place(options)
    command.run(
        "cxrb10",
        where.root,
        lambda: cxrb10.prepare(
            where, options.labels, options.classes, options.group_by, options.split_seed, options.per_class
        ),
    )


if __name__ == "__main__":
    main()
