"""EmoViT: a tiny random InstructBLIP of the true architecture, its checkpoint in LAVIS' names made by renaming backwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import save_file

from data_prep.annotate.item import pass_digest
from data_prep.annotate.replies import EmotionVote
from data_prep.annotate.voting import pool, vote_distribution
from data_prep.cli import main
from data_prep.config import EMOVIT_QUESTION
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.emovit.convert import PROVENANCE_FILE, convert
from data_prep.emovit.scorer import LocalVoter
from data_prep.emovit.vote import DistributionVote
from data_prep.emovit.votes import LocalVotes, MissingVoteError, run_local_votes
from data_prep.local_models.checkpoints import CheckpointError
from data_prep.settings import ConfigError
from data_prep.stats.ablations import first_draft
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, Emotion, Record
from tests.data_prep.conftest import item_of
from tests.data_prep.grounding.models import randomise

_BACKWARDS = [
    (r"^language_projection", "llm_proj"),
    (r"^language_model", "llm_model"),
    (r"^vision_model\.post_layernorm", "ln_vision"),
    (r"^vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn", r"visual_encoder.blocks.\1.attn"),
    (r"^vision_model\.encoder\.layers", "visual_encoder.blocks"),
    (r"^qformer\.embeddings\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    (r"^(qformer\..*attention)\.attention", r"\1.self"),
    (r"^qformer", "Qformer.bert"),
]


def in_lavis_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = key
        for pattern, old in _BACKWARDS:
            name = re.sub(pattern, old, name)
        if name.endswith("attn.qkv.bias"):
            q, _, v = tensor.chunk(3)
            stem = name.removesuffix("qkv.bias")
            out |= {f"{stem}q_bias": q.clone(), f"{stem}v_bias": v.clone()}
        else:
            out[name] = tensor.clone()
    return out


@pytest.fixture(scope="module")
def tuned(base: Path) -> dict[str, torch.Tensor]:
    """What an EmoViT would be: every weight another one, in transformers' names."""
    model = t.InstructBlipForConditionalGeneration.from_pretrained(base)
    randomise(model, 7)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for key in state:
        if key.endswith("qkv.bias"):
            # There is no bias of the keys.
            third = len(state[key]) // 3
            state[key][third : 2 * third] = 0
    return state


def is_tuned(key: str) -> bool:
    return key.startswith(("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm."))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return t.InstructBlipForConditionalGeneration.from_pretrained(folder).state_dict()


def test_a_whole_checkpoint_lands_key_by_key(base: Path, tuned: dict, tmp_path: Path) -> None:
    file = in_lavis_names(tuned)
    # What old files hold beside the weights.
    file |= {
        "Qformer.cls.predictions.bias": torch.zeros(3),
        "Qformer.bert.embeddings.position_ids": torch.arange(128)[None],
        "llm_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    torch.save({"model": file, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "emovit.pth")
    report = convert(tmp_path / "emovit.pth", str(base), tmp_path / "out")
    assert report["from_base"] == []
    assert json.loads((tmp_path / "out" / PROVENANCE_FILE).read_text()) == report
    got = weights(tmp_path / "out")
    assert got.keys() == tuned.keys()
    assert all(torch.equal(got[key], tuned[key]) for key in tuned)


def test_a_partial_checkpoint_takes_the_rest_from_the_base(
    base: Path, tuned: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(in_lavis_names({k: v for k, v in tuned.items() if is_tuned(k)}), tmp_path / "part.safetensors")
    command = ["emovit-convert", str(tmp_path / "part.safetensors"), "--base", str(base), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "from the base: language_model, vision_model" in capsys.readouterr().out
    got, of_base = weights(tmp_path / "out"), weights(base)
    for key in tuned:
        assert torch.equal(got[key], (tuned if is_tuned(key) else of_base)[key]), key
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def drop(prefix: str, *, suffix: str = "") -> Callable[[dict], None]:
    def change(file: dict) -> None:
        gone = [key for key in file if key.startswith(prefix) and key.endswith(suffix)]
        assert gone
        for key in gone:
            del file[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update({"Qformer.bert.new": torch.ones(1)}), "1 keys that InstructBLIP does not have: qformer.new"),
        (
            drop("Qformer.bert.encoder.layer.0.crossattention"),
            "missing keys of parts .* qformer.encoder.layer.0.crossattention",
        ),
        (drop("Qformer."), "missing keys of parts that the file must hold whole: qformer."),
        (drop("query_tokens"), "1 missing keys .*: query_tokens"),
        (drop("llm_model.lm_head"), "1 missing keys .*: language_model.lm_head.weight"),
        (drop("visual_encoder.blocks.0.attn.v_bias"), "q_bias is there without its partner"),
        (lambda f: f.update({"llm_proj.bias": torch.ones(3)}), r"language_projection.bias \(3,\) instead of \(16,\)"),
        (lambda f: f.update({"language_projection.bias": torch.ones(16)}), "two keys mean language_projection.bias"),
    ],
)
def test_what_does_not_fit_is_named(base: Path, tuned: dict, tmp_path: Path, change: Callable, message: str) -> None:
    file = in_lavis_names(tuned)
    change(file)
    torch.save({"model": file}, tmp_path / "emovit.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "emovit.pth", str(base), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.fixture(scope="module")
def voter(base: Path) -> LocalVoter:
    return LocalVoter.from_pretrained(str(base), EMOVIT_QUESTION, batch_size=2)


@torch.inference_mode()
def by_hand(voter: LocalVoter, image: Image.Image, emotion: Emotion) -> float:
    """log p(whole answer | image, prompt): one teacher-forced pass for one answer, no cache."""
    inputs = voter.processor(images=image, text=voter.prompt, return_tensors="pt")
    tokenizer = voter.processor.tokenizer
    answer = tokenizer(f"Predict emotion: {emotion}</s>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert answer[0, -1] == tokenizer.eos_token_id
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = voter.model(**inputs).logits[0, -answer.shape[1] - 1 : -1].double()
    return float(logits.log_softmax(-1).gather(-1, answer[0][:, None]).sum())


def test_scores_are_teacher_forced_log_probabilities(voter: LocalVoter, images: list[Image.Image]) -> None:
    assert len({len(ending) for ending in voter.endings}) > 1, "labels of unlike length"
    votes = voter.vote(images)
    for image, vote in zip(images, votes, strict=True):
        expected = torch.tensor([by_hand(voter, image, e) for e in EMOTIONS], dtype=torch.float64).softmax(-1)
        assert [vote[e] for e in EMOTIONS] == pytest.approx(expected.tolist(), abs=1e-5)
        assert sum(vote.values()) == pytest.approx(1)
        assert voter.vote([image])[0] == pytest.approx(vote, abs=1e-6), "the company does not matter"
    assert max(abs(votes[0][e] - votes[1][e]) for e in EMOTIONS) > 1e-3, "the image matters"


def test_an_encoder_decoder_is_refused(voter: LocalVoter) -> None:
    config = t.InstructBlipConfig(text_config={"model_type": "t5"})
    model: Any = type("Model", (), {"config": config})
    with pytest.raises(CheckpointError, match="'t5': EmoViT's is decoder-only"):
        LocalVoter(model, voter.processor, EMOVIT_QUESTION)


def with_local(base: Path, **changed: object) -> Callable[[dict], None]:
    def change(config: dict) -> None:
        config["annotators"] = [a for a in config["annotators"] if a["name"] != "emovit"]
        row = {"name": "emovit", "role": "emotion", "backend": "local", "path": str(base), "weight": 0.4, "batch_size": 5}
        config["annotators"].append({**row, **changed})

    return change


def test_votes_are_computed_once_and_read_by_the_pass(
    base: Path,
    voter: LocalVoter,
    write_config: Callable[..., Path],
    tmp_path: Path,
    toys: list,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_config(with_local(base))
    config = DemoConfig.load(path)
    assert [a.name for a in config.annotators] == ["gpt", "gemini"]
    assert [(a.name, a.weight) for a in config.local] == [("emovit", 0.4)]
    items = [item_of(record, data) for record, data in toys[:7]]
    with Store(tmp_path / "store", write=True) as store:
        store.import_items(items)
        votes = LocalVotes(store.ledger, config)
        first = next(store.ledger.items())
        with pytest.raises(MissingVoteError, match=r"toy-0000: emovit has not voted; `emo prep vote`"):
            votes.of(first)
        batches: list[int] = []
        assert run_local_votes(store, config, batches.append) == {"emovit": 7}
        assert batches == [5, 2]
        (vote,) = votes.of(first)
        image = Image.open(store.image_path(first.sha256, first.extension)).convert("RGB")
        assert dict(vote.vote.scores) == pytest.approx(voter.vote([image])[0], abs=1e-6)
        said = vote.said_row()
        assert (said["annotator"], said["reply"]["emotion"]) == ("emovit", str(vote.vote.emotion))
        assert said["model"].startswith("sha256:")
        json.dumps(said)
        other = DemoConfig.load(write_config(with_local(base, prompt="Which emotion?")))
        assert pass_digest(config) != pass_digest(other)
    assert main(["vote", str(tmp_path / "store"), "--config", str(write_config(with_local(base)))]) == 0
    assert capsys.readouterr().out == "votes: emovit 0 new\n"
    with Store(tmp_path / "store", write=True) as store:
        assert run_local_votes(store, other) == {"emovit": 7}, "another question is another vote"


def test_a_local_annotator_is_checked_like_the_others(base: Path, write_config: Callable[..., Path], tmp_path: Path) -> None:
    for changed, message in (({"name": "gpt"}, "different names"), ({"wieght": 1}, "wieght"), ({"role": "full"}, "role")):
        with pytest.raises(ConfigError, match=message):
            DemoConfig.load(write_config(with_local(base, **changed)))
    config = DemoConfig.load(write_config(with_local(tmp_path / "none")))
    with Store(tmp_path / "store", write=True) as store, pytest.raises(CheckpointError, match="none: no such file or folder"):
        LocalVotes(store.ledger, config)


def test_a_distribution_is_a_vote_like_the_others() -> None:
    scores = dict.fromkeys(EMOTIONS, 0.05) | {Emotion.AWE: 0.45, Emotion.FEAR: 0.25}
    vote = DistributionVote(scores)
    assert (vote.emotion, vote.confidence) == (Emotion.AWE, 0.45)
    pooled = pool({"emovit": vote, "gpt": EmotionVote(emotion=Emotion.FEAR, confidence=0.6)}, {"emovit": 0.4, "gpt": 0.3})
    assert pooled.emotion is Emotion.FEAR, "the second choice of the one is the first of the other"
    certain = DistributionVote(dict.fromkeys(EMOTIONS, 0.0) | {Emotion.AWE: 1.0})
    assert vote_distribution(certain) == pytest.approx(vote_distribution(EmotionVote(emotion=Emotion.AWE, confidence=1)))
    assert sum(vote_distribution(vote).values()) == pytest.approx(1)


def test_the_pass_weighs_local_votes(
    base: Path,
    write_config: Callable[..., Path],
    tmp_path: Path,
    toys: list,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    path, root = write_config(with_local(base)), tmp_path / "store"
    known = toys[:6]
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data) for record, data in known])
    with simulated_annotators([record for record, _ in known], path) as server:
        assert main(["annotate", str(root), "--config", str(path), "--base-url", server.base_url, "--no-ground"]) == 0
        assert main(["annotate", str(root), "--config", str(path), "--base-url", server.base_url, "--no-ground"]) == 0
        assert "requests 0," in capsys.readouterr().out.split("outcomes:")[-1]
        table3 = ["table3", str(root), "--base-url", server.base_url, "--reference", "none", "--json", "--config"]
        assert main([*table3, str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6
    with Store(root, write=False) as store:
        for _, outcome in store.ledger.outcomes():
            rows = json.loads(outcome.record)["provenance"]["said"]
            said = {row["annotator"]: row["reply"] for row in rows if row["round"] == 0 and "reply" in row}
            assert set(said) == {"gpt", "gemini", "emovit"}
            assert len(said["emovit"]["scores"]) == 8
            record = Record.from_json(outcome.record, outcome.item_id)
            draft = first_draft(record, DemoConfig.load(path))
            assert draft is not None, "Table 3 reads its vote from the record"
            assert sum(draft.pool.support.values()) == pytest.approx(1)
            if not outcome.revisions and not draft.contested:
                assert draft.pool.scores == pytest.approx(record.emotion_scores, abs=1e-5)
    assert main([*table3, str(write_config(with_local(base, weight=0.3)))]) == 2
    assert (
        "none of its 6 outcomes was made with this configuration (gpt: sim-gpt, gemini: sim-gemini" in capsys.readouterr().err
    )
