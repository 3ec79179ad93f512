"""How each front door writes its options, so that a message can name the option that its reader would type."""

from collections.abc import Callable

# Maps an option's name, such as "label_column", and a value to what the user types.
Words = Callable[[str, str], str]
# In Python these are arguments of prune() itself.
OF_PRUNE = ("embeddings", "labels", "ids", "on_error", "hold_out", "engine", "duplicates", "suspects")


def command(name: str, value: str) -> str:
    """Return an option of `prunetune prune`, such as `--label-column kind`."""
    return f"--{name.replace('_', '-')} {value}".rstrip()


def python(name: str, value: str) -> str:
    """Return an argument of `prune()`, such as `read_as=ReadOptions(label_column="kind")`."""
    if name == "checkpoint":
        return f'backbone=Backbone(model=..., checkpoint="{value}")'
    if name == "worker_gb":
        return f"engine=RayEngine(worker_gb={value})"
    argument = f"{name}={value}" if name == "hold_out" else f'{name}="{value}"'
    return argument if name in OF_PRUNE else f"read_as=ReadOptions({argument})"


def run(name: str, value: str) -> str:
    """Return a key of a run, such as `dataset.label_column=kind`."""
    return f"dataset.{name}={value}"
