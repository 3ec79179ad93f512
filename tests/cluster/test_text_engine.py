"""`prune_text(..., engine="ray")` on a real Ray: shards of jsonl and parquet, and a worker that is killed."""

import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    psutil, _ = pytest.importorskip("psutil"), pytest.importorskip("transformers")
    rows = made_rows(120)
    settings = {"scorer": "dlc", "max_tokens": 300, **SETTINGS}

    def kill_one():
        while not list(tmp_path.glob("store/passes/*/*/batch-*.npz")):
            time.sleep(0.02)
        own = psutil.Process().children(recursive=True)
        next(one for one in own if "ray::TextActor" in " ".join(one.cmdline())).kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    far = prune_text(rows, engine="ray", store=tmp_path / "store", **settings)
    killer.join(10)
    assert not killer.is_alive()
    assert far.positions.equal(prune_text(rows, **settings).positions)
