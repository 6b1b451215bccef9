"""What `emo_lightning` and `data_prep` both stand on, without torch and quick to import.

| module | holds |
|---|---|
| `records` | the record of one annotated image, what a model says of one, and both as JSON lines |
| `emotions` | the eight emotions and the levels of intensity |
| `strict_numbers` | what counts as a number in a record |
| `foreign` | the one decoder of JSON that others wrote, and its types; files of at most a given length |
| `arrays` | .npy and .npz files that others wrote |
| `stores` | bytes of a local file, or of an object behind a URL |
| `tar_scan`, `tar_rows` | the members of a tar, put together to samples |
| `shard_index` | the index beside a tar |
| `cache_folder` | where is kept what can be made again |
| `text` | text that others wrote, as a terminal, Markdown, CSV or a file's name may hold it |
| `tables` | the one table type, and its forms: terminal, Markdown, LaTeX, CSV |
| `image_metadata` | what an image file says beside its pixels, and the file without it |
| `errors` | the base of every error that a user can mend |
| `files` | files and folders that are whole or not there; JSON objects |
| `images` | what an image file is decoded to |
| `jpegs` | the pixels of a JPEG, for models |
| `replies` | the JSON of an answer as models write it, and why one cannot be read |
| `intervals` | the confidence interval of a share |
| `progress` | progress bars of commands |
| `colours` | colours and markers of the emotions |
| `model_folders` | which model a path stands for: its base, its content hash, what it was made from |
| `weight_files` | files of weights: whole, of the size that they claim |
| `model_loading` | models of transformers, loaded whole or not at all |
| `checkpoints` | checkpoints of a training, read without running code |
| `hub` | whether a model can come from the hub |
| `ranks` | this process among those that a launcher started |

Nothing here imports another part of the project.
"""
