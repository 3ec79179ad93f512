"""The bodies of the commands of `prunetune.cli`. A command imports what it needs only when it is called."""
