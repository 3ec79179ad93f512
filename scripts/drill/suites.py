"""All suites of the drill, in the order of the table."""

from scripts.drill import damage, full_disk, kills, places, together
from scripts.drill.inputs import archives, checkpoints, image_files, list_files, overrides, score_files

INPUTS = (overrides, list_files, score_files, checkpoints, archives, image_files)
DISKS = (*full_disk.SUITES, places.SUITE)
SUITES = (*kills.SUITES, *together.SUITES, *DISKS, *damage.SUITES, *(module.SUITE for module in INPUTS))
