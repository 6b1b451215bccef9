"""From tars to batches.

1. `shard_list` expands what a user writes (files, folders, globs, URLs) to shards, and reads the manifest beside them.
2. `stores` reads their bytes: local files directly, anything else through fsspec (`remote`), in blocks that stay on disk (`block_cache`).
3. `core.shard_index` is what a tar's index holds, which `shard_indices` finds, or makes by `core.tar_scan` and `core.tar_rows`; `joined` puts
   those of several tars together.
4. `tar_index` is the table of all samples by row: `TarIndex.sample(row)` gives a checked record and its image.
5. `conversations`, `questions`, `labelled` and `pairs` make datasets of it: an image, and what is asked or known about it.
6. `sampler` plans an epoch: which rank takes which row in which step, as a pure function of seed and epoch.
7. `loader` follows the plan, and goes on in mid-epoch where a checkpoint stopped.
8. `chat` writes prompts and answers as text; `collate` makes one padded batch of them, as the backbone's family asks.
9. `features` and `embeddings` keep what a frozen backbone or head has computed; `supervision` holds the labels beside it.
10. `module` is the base of the data modules. What they need of their task stands in `protocols`, what they give it in `batches`.

Nothing here knows a task; of models it knows `models.families` alone.
"""
