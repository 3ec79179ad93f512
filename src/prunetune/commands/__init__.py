"""The bodies of the commands that `prunetune.cli` offers; each imports what it needs when it is called."""
