"""Score, prune and fine-tune: `python run.py dataset=dtd scorer=dlc ratio=0.1`; `--help` lists every option."""

import sys

from prunetune.hydra_entry import start

if __name__ == "__main__":
    start(sys.argv[0], sys.argv[1:])
