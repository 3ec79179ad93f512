"""Developer tool: how far our methods select what their authors' code selects.

python -m scripts.parity.peers --peers <folder of checkouts> [--only d2 ccs ...] [--out <folder>]

The folder has the checkouts of the repositories in `PEERS`, each called name, owner+name or owner/name. Peers that are
not there are named, and their lines of earlier runs stay. Both sides get the same features, logits, labels and draws;
nothing is trained. The tables have counts, overlaps and causes only.

Writes <out>/<peer>.csv, with a line for every comparison, and <out>/methods.csv, with a line for every method.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prunetune.base.errors import InputError
from scripts.parity.agreement import write_rows, write_summary
from scripts.parity.checkouts import find_checkout, other_code

OUT = Path("results/parity")


@dataclass(frozen=True)
class Peer:
    """Other code that we compare with.

    name: that of its module here, whose function `rows` makes the comparisons. repositories: what the function takes,
    as owner/name at a commit.
    """

    name: str
    repositories: tuple[str, ...]

    @property
    def places(self) -> list[str]:
        """The repositories without their commits."""
        return [repository.partition("@")[0] for repository in self.repositories]


PEERS = (
    Peer("activeft", ("yichen928/ActiveFT@0687b00",)),
    Peer("apricot", ("jmschrei/apricot@962f597",)),
    Peer("ccs", ("haizhongzheng/Coverage-centric-coreset-selection@b37f166",)),
    Peer("cords", ("decile-team/cords@8d10c7f",)),
    Peer("d2", ("adymaharana/d2pruning@bf1ea46",)),
    Peer("deepcore", ("PatrickZH/DeepCore@74ec709",)),
    Peer("dual", ("behaapyy/dual-pruning@4ab525d",)),
    Peer("example_forgetting", ("mtoneva/example_forgetting@d51c1aa",)),
    Peer("infobatch", ("NUS-HPC-AI-Lab/InfoBatch@8bbb012",)),
    Peer("moderate", ("tmllab/2023_ICLR_Moderate-DS@7f64d31",)),
    Peer("released", ("ml-stat-Sustech/Efficient-Dataset-Pruning@6767d0e", "lygjwy/a5c@a555dbc")),
    Peer("tdds", ("zhangxin-xd/Dataset-Pruning-TDDS@9c1e3bd",)),
    Peer("typiclust", ("avihu111/TypiClust@4097a71",)),
    Peer("uherding", ("BorealisAI/uherding@75299cd",)),
    Peer("zcore", ("voxel51/zcore@5fe8048",)),
)


def main() -> None:
    """Write the tables of all peers that are there, and name those that are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, type=Path, help="folder of checkouts")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="PEER")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if not options.peers.is_dir():
        raise InputError(f"--peers is the folder of checkouts, and {options.peers} is no folder; pass another one")
    wanted = [peer for peer in PEERS if not options.only or peer.name in options.only]
    complaints = [complaint for peer in wanted if (complaint := compare_with(peer, options.peers, options.out))]
    write_summary(options.out, {peer.name: " and ".join(peer.repositories) for peer in PEERS})
    if complaints:
        sys.exit("\n".join(complaints))


def compare_with(peer: Peer, folder: Path, out: Path) -> str:
    """Write the table of one peer. Return "", or an error line if it failed or a difference has no cause.

    A peer that is not there is named, which is no error.
    """
    checkouts = [find_checkout(folder, place) for place in peer.places]
    missing = [place for place, checkout in zip(peer.places, checkouts, strict=True) if checkout is None]
    if missing:
        print(f"{peer.name}: {' and '.join(missing)} not in {folder}, so it was not compared")
        return ""
    for repository, checkout in zip(peer.repositories, checkouts, strict=True):
        warn_of_another_commit(repository, checkout)
    try:
        with other_code():
            rows = list(import_module(f"scripts.parity.{peer.name}").rows(*checkouts))
    except InputError as error:
        return f"error: {peer.name}: {error}"
    return write_rows(out / f"{peer.name}.csv", rows)


def warn_of_another_commit(repository: str, checkout: Path) -> None:
    """Print a line if a checkout is a git repository at another commit than the one that was compared."""
    place, _, commit = repository.partition("@")
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and not done.stdout.startswith(commit):
        print(f"{place} is at {done.stdout[:7]}, its comparison was written for {commit}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
