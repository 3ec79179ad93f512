"""The bodies of the commands of `prunetune`, which `prunetune.cli` declares; each imports what it needs when it runs."""
