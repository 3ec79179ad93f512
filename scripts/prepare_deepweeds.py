"""Prepare DeepWeeds (8 species without Negative, 1,000 photographs each; 0.5 GB, CC BY 4.0).

Downloads labels and images, chooses and splits them 600/200/200 by seed into <root>/{train,val,test}/<species>/;
<root>/splits.csv is the file list. With --official-fold the authors' split of all nine labels is used instead.
Run it again after a break: it goes on from there.
"""

from pathlib import Path

from prunetune.data.prepare import command, deepweeds


def main() -> None:
    parser = command.parser("deepweeds", __doc__, images=True)
    add = parser.add_argument
    add("--labels", type=Path, nargs="+", metavar="FILE", help="labels.csv, or train, val and test file of a fold")
    add("--split-seed", type=int, default=0, help="another seed, another choice and split (%(default)s)")
    add("--per-class", type=int, default=deepweeds.PER_CLASS, help="photographs of a species (%(default)s)")
    add("--official-fold", type=int, choices=range(5), help="the authors' fold, nine classes, all photographs")
    options = parser.parse_args()
    where = command.place(options)
    command.run(
        "deepweeds",
        where.root,
        lambda: deepweeds.prepare(
            where, options.labels, options.split_seed, options.per_class, official_fold=options.official_fold
        ),
    )


if __name__ == "__main__":
    main()
