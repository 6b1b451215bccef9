"""The few files by which sentence-transformers loads a folder of ours.

Its module is one small file in the folder, which it runs where it is trusted (`trust_remote_code=True`); all that the file does is in
this package, which has to be installed.
"""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.files import write_json, write_text

SENTENCE_MODULE = "sentence_emotion"
_SOURCE = '''"""For sentence-transformers: images -> emotion embeddings. Needs `pip install emo-lightning`."""

from emo_lightning.inference.sentence_module import SentenceEmotion as _SentenceEmotion


class SentenceEmotion(_SentenceEmotion):
    """Defined here, since sentence-transformers takes a class from the file that it names."""
'''


def write_sentence_transformer(folder: Path) -> None:
    """Write `modules.json`, the configuration and the module of one file."""
    module = {"idx": 0, "name": "0", "path": "", "type": f"{SENTENCE_MODULE}.SentenceEmotion"}
    write_json(folder / "modules.json", [module], indent=2)
    config: dict[str, object] = {
        "model_type": "SentenceTransformer",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", config, indent=2)
    write_text(folder / f"{SENTENCE_MODULE}.py", _SOURCE)
