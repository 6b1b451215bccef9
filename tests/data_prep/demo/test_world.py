"""The demo world: determinism, exact masks, the affect rule's balance, held-out combinations, closed vocabulary."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from data_prep.demo.world import (
    WORLD_ATTRIBUTES,
    WORLD_BACKGROUNDS,
    WORLD_SPLITS,
    WORLD_SUBJECTS,
    World,
    WorldSample,
    affect,
    affective_vocabulary,
    held_out,
    neutral_vocabulary,
    split_words,
    vocabulary,
)
from data_prep.demo.world.affect import OCTANTS, all_triplets, noisy_label
from data_prep.demo.world.captions import affective_description, neutral_caption
from data_prep.demo.world.draw import MAX_HIDDEN, MIN_VISIBLE, _place_distractors, _place_primary, draw_scene
from data_prep.demo.world.sprites import draw_subject
from data_prep.demo.world.style import FLAT
from emo_lightning.core.records import EMOTIONS, Emotion, Record

MOOD_WORDS = {
    *EMOTIONS,
    "happy",
    "sad",
    "angry",
    "joyful",
    "joy",
    "scary",
    "scared",
    "gloomy",
    "cheerful",
    "funny",
    "disgusting",
    "afraid",
    "awesome",
    "content",
    "excited",
    "exciting",
    "calm",
    "furious",
    "mood",
    "feels",
    "feel",
}


@pytest.fixture(scope="module")
def samples() -> list[WorldSample]:
    return list(World(seed=3).samples("train", 250))


def _image(sample: WorldSample) -> Image.Image:
    return Image.open(io.BytesIO(sample.image))


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    first, again = World(seed=1), World(seed=1)
    list(again.samples("val", 3))  # what was drawn before must not matter
    assert first.sample("train", 41) == again.sample("train", 41)
    images = {World(seed=s).sample(split, i).image for s in (1, 2) for split in WORLD_SPLITS for i in (0, 1)}
    assert len(images) == 2 * len(WORLD_SPLITS) * 2


def test_records_are_valid_and_describe_the_image(samples: list[WorldSample]) -> None:
    for s in samples:
        for record in (s.truth, s.neutral):
            assert Record.from_json(record.to_json(), s.key) == record
        image = _image(s)
        assert image.size == (s.truth.width, s.truth.height)
        assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[s.extension]
        assert s.truth.sha256 == s.neutral.sha256 == hashlib.sha256(s.image).hexdigest()
        assert s.truth.triplet == s.neutral.triplet
        assert s.truth.objects == s.neutral.objects
        labels = (s.neutral.emotion, s.neutral.intensity, s.neutral.emotion_scores, s.neutral.confidence)
        assert labels == (None,) * 4
        assert "truth" not in s.neutral.provenance
        assert s.truth.provenance["licence"] == "CC0-1.0"


def test_boxes_are_tight_around_visible_masks_that_do_not_overlap(samples: list[WorldSample]) -> None:
    for s in samples:
        total = np.zeros((s.truth.height, s.truth.width), int)
        for obj in s.truth.objects:
            assert obj.mask is not None
            rle = {"size": list(obj.mask.size), "counts": obj.mask.counts.encode()}
            x, y, w, h = coco.toBbox(rle)
            assert obj.bbox == (x, y, x + w, y + h)
            total += coco.decode(rle)
        assert total.max() == 1
        assert [o.primary for o in s.truth.objects] == [True] + [False] * (len(s.truth.objects) - 1)
        assert s.truth.objects[0].phrase == s.truth.subject


def test_the_mask_is_where_the_subject_was_drawn() -> None:
    # The colour of a white ghost, on a dark background, without weather: inside and outside of the mask must differ.
    scene = draw_scene(("graveyard", "smiling", "ghost"), FLAT, random.Random(4))
    light = np.asarray(scene.image.convert("L"), float)
    mask = scene.layers[0].mask
    others = np.any([layer.mask for layer in scene.layers], axis=0)
    assert light[mask].mean() > light[~others].mean() + 80
    x1, y1, x2, y2 = scene.layers[0].box
    assert not mask[:y1].any()
    assert not mask[y2:].any()
    assert not mask[:, :x1].any()
    assert not mask[:, x2:].any()


def test_distractors_hide_little_of_the_primary_and_stay_visible() -> None:
    in_front = behind = 0
    for i in range(250):
        rng, subject, size = random.Random(i), WORLD_SUBJECTS[i % 8], (110, 128)
        primary = _place_primary(subject, "smiling", 0.6, size, 0.5, FLAT, rng)
        placed = _place_distractors(primary, subject, size, FLAT, rng)
        hidden = np.zeros_like(primary.mask)
        for item in placed:
            assert item.phrase != f"small {subject}"
            if item.front:
                hidden |= item.mask
                in_front += bool((item.mask & primary.mask).any())
            else:
                behind += bool((item.mask & primary.mask).any())
                assert (item.mask & ~primary.mask).sum() >= MIN_VISIBLE * item.mask.sum()
        assert (hidden & primary.mask).sum() <= MAX_HIDDEN * primary.mask.sum()
    assert min(in_front, behind) > 5  # else the limits were never tried


def test_variety_of_sizes_formats_objects_and_lengths(samples: list[WorldSample]) -> None:
    sides = [side for s in samples for side in (s.truth.width, s.truth.height)]
    assert min(sides) >= 96
    assert max(sides) <= 168
    aspects = {round(s.truth.width / s.truth.height, 1) for s in samples}
    assert {0.8, 1.0, 1.3} <= aspects
    assert {s.extension for s in samples} == {"jpg", "png", "webp"}
    assert {len(s.truth.objects) for s in samples} == {1, 2, 3}
    lengths = [len((s.neutral.description or "").split()) for s in samples]
    assert min(lengths) <= 7
    assert max(lengths) >= 3 * min(lengths)
    assert max(lengths) <= 34


def test_every_attribute_and_subject_changes_the_sprite() -> None:
    faces = {
        (s, a): draw_subject(s, a, 60, FLAT, random.Random(0)).tobytes()
        for s in WORLD_SUBJECTS
        for a in (None, "smiling", "crying", "scowling", "sleeping", "jumping")
    }
    assert len(set(faces.values())) == len(faces)
    with pytest.raises(ValueError, match="dancing"):
        draw_subject("dog", "dancing", 60, FLAT, random.Random(0))


def emotion_shares() -> dict[Emotion, float]:
    """Share of each emotion over the 512 triplets."""
    counts = Counter(affect(*t).emotion for t in all_triplets())
    return {e: counts[e] / len(all_triplets()) for e in EMOTIONS}


def lookup_shares() -> dict[tuple[str, ...], float]:
    """For one and for two factors: share of the 512 triplets that the best table "values -> emotion" gets right."""
    names = ("background", "attribute", "subject")
    shares: dict[tuple[str, ...], float] = {}
    for size in (1, 2):
        for which in itertools.combinations(range(3), size):
            tables: dict[tuple[str, ...], Counter[Emotion]] = {}
            for t in all_triplets():
                tables.setdefault(tuple(t[i] for i in which), Counter())[affect(*t).emotion] += 1
            right = sum(max(table.values()) for table in tables.values())
            shares[tuple(names[i] for i in which)] = right / len(all_triplets())
    return shares


def test_affect_is_balanced_and_not_readable_from_two_factors() -> None:
    assert all(0.06 <= share <= 0.22 for share in emotion_shares().values())
    shares = lookup_shares()
    assert len(shares) == 6
    for factors, share in shares.items():
        assert share <= {1: 0.45, 2: 0.75}[len(factors)], factors
    # The figures that the module's docstring states.
    assert [round(100 * share, 1) for share in shares.values()] == [35.5, 34.2, 20.1, 57.0, 39.3, 52.3]
    assert {affect(*t).intensity for t in all_triplets()} == set(range(1, 11))


def test_the_emotion_is_the_octant_of_the_latent() -> None:
    for t in all_triplets():
        a = affect(*t)
        assert OCTANTS[a.emotion] == tuple(1 if x > 0 else -1 for x in a.latent)
        assert sum(a.scores.values()) == pytest.approx(1)
        assert a.confidence == max(a.scores.values())
    assert affect("beach", "smiling", "dog").latent[0] > 0 > affect("beach", "smiling", "spider").latent[0]
    with pytest.raises(ValueError, match="no subject 'unicorn'; allowed: dog, cat"):
        affect("beach", "smiling", "unicorn")


def test_label_noise_has_the_stated_rate_and_never_hits_the_truth() -> None:
    truth, rng = affect("beach", "smiling", "dog"), random.Random(0)
    labels = Counter(noisy_label(truth, 0.05, rng) for _ in range(20_000))
    assert 1 - labels[truth.emotion] / 20_000 == pytest.approx(0.05, abs=0.006)
    assert all(noisy_label(truth, 1.0, rng) is not truth.emotion for _ in range(100))
    assert all(s.human_emotion is s.truth.emotion for s in World(label_noise=0).samples("val", 20))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_held_out_triplets_leave_every_pair_in_training(seed: int) -> None:
    out = held_out(seed)
    assert len(out) == pytest.approx(0.2 * 512, abs=1)
    kept = set(all_triplets()) - out
    for i, j in itertools.combinations(range(3), 2):
        pairs = Counter((t[i], t[j]) for t in kept)
        assert len(pairs) == 64
        assert min(pairs.values()) >= 5
    assert held_out(seed) != held_out(seed + 1)


def test_splits_keep_to_their_combinations_and_cover_them() -> None:
    world = World(seed=5)
    for split in WORLD_SPLITS:
        count = {"heldout": 102, "backbone": 512}.get(split, 410)
        shown = [world.triplet(split, i) for i in range(count)]
        assert len(set(shown)) == count
        assert (set(shown) <= world.held_out) == (split == "heldout")
        assert set(shown).isdisjoint(world.held_out) == (split not in ("heldout", "backbone"))
        assert [world.triplet(split, count + i) for i in range(count)] != shown
    assert {world.triplet("train", i)[0] for i in range(410)} == set(WORLD_BACKGROUNDS)
    assert {world.triplet("heldout", i)[1] for i in range(102)} == set(WORLD_ATTRIBUTES)


def test_texts_stay_in_the_vocabulary_and_name_no_emotion() -> None:
    rng, words = random.Random(0), set(vocabulary())
    neutral_words, affective_words = set(neutral_vocabulary()), set(affective_vocabulary())
    assert neutral_words | affective_words == words
    assert len(neutral_words) < 250
    assert len(affective_words - neutral_words) < 150
    assert not MOOD_WORDS & neutral_words
    assert not set(EMOTIONS) & words
    seen: set[str] = set()
    for i in range(2000):
        triplet = all_triplets()[i % 512]
        things = rng.sample(["red ball", "small cat", "green mushroom", "pink box"], i % 3)
        neutral = neutral_caption(triplet, rng.random(), rng.uniform(0.4, 0.7), things, rng)
        affective = affective_description(triplet, rng)
        assert set(split_words(neutral)) <= neutral_words, neutral
        assert set(split_words(affective)) <= affective_words, affective
        for text in (neutral, affective):
            assert all(value in text for value in triplet), text
            assert "{" not in text
        seen |= {*split_words(neutral), *split_words(affective)}
    assert len(words - seen) < 15  # no dead words, but for props and colours that were not sampled


def test_texts_and_phrases_of_real_samples_are_in_the_vocabulary(samples: list[WorldSample]) -> None:
    words = set(vocabulary())
    for s in samples:
        texts = [s.neutral.description, s.truth.description, *(o.phrase for o in s.truth.objects)]
        for text in texts:
            assert text
            assert set(split_words(text)) <= words, text


def test_wrong_arguments_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="no style 'oil'; allowed: flat, dusk"):
        World(style="oil")
    with pytest.raises(ValueError, match=r"label_noise is 1\.5"):
        World(label_noise=1.5)
    with pytest.raises(ValueError, match="no split 'dev'; allowed: backbone, pretrain, train"):
        World().sample("dev", 0)
    with pytest.raises(ValueError, match="sample -1"):
        World().sample("train", -1)


def test_captions_name_the_attribute_in_the_share_that_is_asked() -> None:
    looks = {word for attribute in WORLD_ATTRIBUTES for word in split_words(attribute)}
    worlds = {share: World(3, attribute_share=share) for share in (0.0, 0.25, 0.5, 1.0)}
    named: dict[float, set[int]] = {share: set() for share in worlds}
    for index in range(120):
        samples = {share: world.sample("backbone", index) for share, world in worlds.items()}
        whole = samples[1.0].neutral
        for share, sample in samples.items():
            assert sample.image == samples[1.0].image
            assert sample.truth == samples[1.0].truth
            if sample.neutral.attribute is not None:
                named[share].add(index)
                assert sample.neutral == whole
                continue
            assert whole.description is not None
            assert sample.neutral.description is not None
            words, all_words = split_words(sample.neutral.description), split_words(whole.description)
            assert not looks & set(words)
            # The rest of the caption is the same, word for word.
            rest = iter(all_words)
            assert all(word in rest for word in words)
            assert sample.neutral == whole.model_copy(update={"attribute": None, "description": sample.neutral.description})
    assert named[0.0] == set()
    assert named[1.0] == set(range(120))
    assert named[0.25] < named[0.5]
    assert 20 <= len(named[0.25]) <= 40
    assert 48 <= len(named[0.5]) <= 72


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attribute_share is 1\.5; allowed: 0 to 1"):
        World(attribute_share=1.5)
