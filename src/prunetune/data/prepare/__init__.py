"""From a public archive to a folder that a reader accepts: download, extract, split, check."""
