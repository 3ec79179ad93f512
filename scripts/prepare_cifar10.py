"""Prepare CIFAR-10 in torchvision's own folder (10 classes, 60,000 images; 0.2 GB).

Downloads the archive, checks it, extracts it and counts it. Run it again after a break: it goes on from there.
"""

from prunetune.data.prepare import cifar10, command


def main() -> None:
    options = command.parser("cifar10", __doc__).parse_args()
    where = command.place(options)
    command.run("cifar10", where.root, lambda: cifar10.prepare(where))


if __name__ == "__main__":
    main()
