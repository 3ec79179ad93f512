"""Prepare Sketch (TU-Berlin, Eitz et al. 2012; 250 classes of 80 drawings; 0.5 GB, CC BY 4.0).

Downloads the archive, checks that every class has 80 drawings and splits them 48/16/16 by seed into
<root>/{train,val,test}/<class>/; <root>/splits.csv is the file list. Run it again after a break: it goes on from there.
"""

from prunetune.data.prepare import command, sketch


def main() -> None:
    parser = command.parser("sketch", __doc__, images=True)
    parser.add_argument("--split-seed", type=int, default=0, help="another seed, another split (%(default)s)")
    options = parser.parse_args()
    where = command.place(options)
    command.run("sketch", where.root, lambda: sketch.prepare(where, options.split_seed))


if __name__ == "__main__":
    main()
