from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core.records import SchemaError
from emo_lightning.inference.bundle import BUNDLE_FILE, Bundle, read_bundle, write_bundle


def test_a_folder_can_be_moved_and_a_hub_id_stays(tmp_path: Path) -> None:
    (tmp_path / "run" / "head").mkdir(parents=True)
    out = tmp_path / "run" / "model"
    out.mkdir()
    write_bundle(out, Bundle("Qwen/Qwen2.5-VL-3B", str(tmp_path / "run" / "head"), None, "emotion", ["emotion"]))
    assert json.loads((out / BUNDLE_FILE).read_text())["head"] == "../head"
    (tmp_path / "run").rename(tmp_path / "moved")
    bundle = read_bundle(tmp_path / "moved" / "model")
    assert bundle == Bundle("Qwen/Qwen2.5-VL-3B", str((tmp_path / "moved" / "head").resolve()), None, "emotion", ["emotion"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 3}, "key 'head': found 3; expected text"),
        ({"head": ""}, "key 'head': found ''; expected text"),
        ({"questions": []}, "key 'questions': found []; expected a list of objectives"),
        ({"questions": ["emotion", "mood"]}, "found the objective 'mood'; allowed: attributes, emotion"),
        ({"features": "mood"}, "found the objective 'mood'; allowed: attributes, emotion"),
        ({"questions": "emotion"}, "key 'questions': found 'emotion'; expected a list of objectives"),
        (
            {"hed": "x"},
            "keys backbone, features, head, hed, probe, questions; expected backbone, features, head, probe, questions",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    good = {"backbone": "x", "head": "h", "probe": None, "features": "emotion", "questions": ["emotion"]}
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(good | change))
    with pytest.raises(SchemaError) as caught:
        read_bundle(tmp_path)
    assert f"{tmp_path / BUNDLE_FILE}: {message}" in str(caught.value)
