"""From a public archive to a folder that a reader of `prunetune.datasets` accepts: download, extract, split, check."""
