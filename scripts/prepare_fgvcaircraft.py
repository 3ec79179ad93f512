"""Prepare FGVC-Aircraft 2013b (100 variants, official splits; 2.75 GB, non-commercial research only).

Downloads the archive, checks it, extracts it and counts it. Run it again after a break: it goes on from there.
"""

from prunetune.data.prepare import command, fgvcaircraft


def main() -> None:
    options = command.parser("fgvcaircraft", __doc__).parse_args()
    where = command.place(options)
    command.run("fgvcaircraft", where.root, lambda: fgvcaircraft.prepare(where))


if __name__ == "__main__":
    main()
