"""`prune_text(..., engine="ray")` on a real Ray: shards of jsonl and parquet, and a worker that is killed."""

import contextlib
import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster_processes import at_work
from prunetune import prune_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
SETTINGS = {"model": "tiny", "keep": 0.3}


def made_rows(count):
    return [{"instruction": f"Say {i}.", "output": f"It is {i} or {'word ' * (i % 7)}."} for i in range(count)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_same_rows_are_kept_as_in_process(on_ray, tmp_path, kind):
    pytest.importorskip("transformers")
    rows = made_rows(60)
    rows[7]["output"] = ""  # A row that cannot be scored.
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        part = rows[20 * number : 20 * number + 20]
        if kind == "jsonl":
            (folder / f"{number:03d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        else:
            pq.write_table(pa.Table.from_pylist(part), folder / f"{number:03d}.parquet")
    scorer = "dlc" if kind == "jsonl" else "ifd_ppl"
    far = prune_text(folder, scorer=scorer, engine="ray", store=tmp_path / "far", **SETTINGS)
    near = prune_text(folder, scorer=scorer, store=tmp_path / "near", **SETTINGS)
    assert far.positions.equal(near.positions)
    assert far.pool_scores.equal(near.pool_scores)  # Each model has one thread, here and there.
    stored = [sorted(path.name for path in (tmp_path / one / "scores").iterdir()) for one in ("far", "near")]
    assert stored[0] == stored[1]
    assert far.report == near.report
    assert len(far.pool) == 59


@pytest.mark.usefixtures("on_ray")
def test_a_worker_that_is_killed_costs_its_batches_only(tmp_path):
    pytest.importorskip("transformers")
    rows = made_rows(120)
    settings = {"scorer": "dlc", "max_tokens": 300, **SETTINGS}
    done, after, is_over = set(), set(), threading.Event()

    def batches():
        found = set()
        for path in tmp_path.glob("store/passes/*/*/batch-*.npz"):
            with contextlib.suppress(FileNotFoundError):  # The batches of a finished pass are removed.
                found.add((path, path.stat().st_mtime_ns))
        return found

    def kill_one():
        while not batches() or not (busy := at_work("TextActor.run")):
            time.sleep(0.01)
        done.update(batches())
        busy[0].kill()
        while not is_over.wait(0.01):
            after.update(batches())

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    far = prune_text(rows, engine="ray", store=tmp_path / "store", **settings)
    is_over.set()
    killer.join(10)
    assert len(after) > len(done) > 0
    assert len(dict(after)) == len(after | done)  # No batch has two times of change.
    assert far.positions.equal(prune_text(rows, **settings).positions)
