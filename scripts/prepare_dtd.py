"""Prepare DTD (Describable Textures r1.0.1, 47 classes, official partition 1; 0.6 GB, research use).

Downloads the archive, checks it, extracts it and counts it. Run it again after a break: it goes on from there.
"""

from prunetune.data.prepare import command, dtd


def main() -> None:
    options = command.parser("dtd", __doc__).parse_args()
    where = command.place(options)
    command.run("dtd", where.root, lambda: dtd.prepare(where))


if __name__ == "__main__":
    main()
