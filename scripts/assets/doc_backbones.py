"""The page of networks, with the table of timm's families from results/backbones.csv."""

from pathlib import Path

import pandas as pd

from scripts.assets.doc_text import escaped, page, table

CHECKPOINTS = """\
## Checkpoints

`--checkpoint <file>`, or `backbone.checkpoint=<file>` in a run, reads safetensors and torch files that hold tensors,
numbers, words and options. A pickle that would run code is refused, whatever else is in it.

The tensors are found by their names, under any keys and prefixes: `state_dict`, `model`, `model_state_dict`, `net`,
`params`, `module.`, `_orig_mod.`, Lightning's `model.`, `backbone.`, SupCon's `encoder.module.`, MoCo's `encoder_q.`,
DINO's `teacher` and others. The log says which prefix was removed and how many tensors were not used. A head may be
there or not. Every other tensor must fit: one that is missing, unknown, not finite or of another shape ends the run
with its name.

- **Moving averages.** If a file also holds averaged weights (`state_dict_ema`, `model_ema`, a teacher), these are read,
  as timm does. `backbone.use_ema=false` reads the others.
- **Two networks in one file.** Of MoCo, BYOL and similar methods the trained network is read, not the slow copy. Where
  it is not clear which one is meant, the file is refused.
- **Names of another release**, such as those of the first ConvNeXt, are translated where timm can do it."""

INPUT_SIZE = """\
## Another input size

`backbone.input_size=<pixels>` is enough. Where a network has position embeddings of a fixed size, they are resampled to
the new one by timm. For weights from a file the log names them. A size that a network does not take is refused."""

MASKS = """\
## What DLC masks

Biases, normalisation layers, scales, the patch embedding, positions and tokens are never masked. The weights of
convolutions and linear layers are. With `mask_modules=all`, the default of `backbone=timm`, the matrices of recurrent
layers, attention, experts, and one-dimensional and transposed convolutions are masked, too. Where a layer computes its
weight in the forward pass, such as a weight-standardised convolution, the weight that it uses is ranked and masked, not
the parameter. Of experts each one is masked; their mixture depends on the image and has fewer zeros.

The share of the parameters that can be masked is logged, and stands in `result.json` as `maskable_share`. The patch
embedding, positions and tokens are not counted. A network of which less than 90 % can be masked is refused by the
scorers that mask weights."""

FAMILIES = """\
## Every family of timm

One small network of each family of the timm that constraints.txt names, with random weights. A family is a module of
timm and the first word of the names of its models. Thirteen images are scored by `dlc` and `lc_knn`, and the network is
trained on them for one epoch in batches of twelve, where the last image joins its batch if the network has batch
normalisation.

- `side` is the number of pixels of an image's side: the first of 64, 96, 112, 128 and the network's own that it takes.
- `maskable` is the share of the parameters that DLC can mask.
- `masked` is the share of zeros that was counted in the weights of convolutions and linear layers while a network ran
  at the level that masks 36 %. It is smaller where the patch embedding is a large part of the network, and another
  number where other layers have weights, too, since all weights are ranked together.
- `made with` is set where a network would have more than 60 million parameters and its number of blocks can be chosen:
  it has two.

`python -m scripts.survey.backbones` writes the table (results/backbones.csv). `make test-slow` compares the installed
timm with it."""


def backbones_page(path: Path) -> str:
    """Return the page about networks."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = {"model_args": "made with", "million_parameters": "parameters (millions)", "input_size": "side"}
    rows = [[row[0], *(escaped(value) for value in row[1:])] for row in frame.itertuples(index=False)]
    works = (frame[["dlc", "lc_knn", "training"]] == "yes").all(axis=1)
    return page(
        "Networks",
        "`--backbone NAME` of `prunetune prune`, `backbone=timm backbone.model=NAME` of a run, and\n"
        '`prune(..., backbone="NAME")` in Python take any model of timm. The networks of the paper have short names, '
        "which\n[your own images](images.md#which-network) lists.",
        CHECKPOINTS,
        INPUT_SIZE,
        MASKS,
        f"{FAMILIES}\n\n{int(works.sum())} of {len(frame)} families do everything.",
        table([names.get(column, column) for column in frame.columns], rows),
        is_wide=True,
    )
