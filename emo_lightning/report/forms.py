"""What the report needs of the JSON that stages write, checked before any of it is shown.

A file may be of an older version, damaged, or made by somebody else. So each has a form: the keys that a table or a drawing reads, and their
types; other keys are let through. What fits cannot end in an error of ours, and what does not is named by its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emo_lightning.analysis.table6 import TABLE6_METRICS, TABLE6_SETS
from emo_lightning.core.errors import UserError
from emo_lightning.core.records import SchemaError
from emo_lightning.report.problems import problem

MAX_PAGE_VALUES = 300_000
"""Of one file: nobody reads a table of so many cells, and pydantic keeps a complaint of each."""


class Form(BaseModel):
    """The base, which any object fits: types are taken as they stand, and what is not named is let through."""

    model_config = ConfigDict(extra="ignore", strict=True)


NumberOrNull = float | None
"""None stands for one that was not finite, too."""
IntervalBounds = Annotated[list[NumberOrNull], Field(min_length=2, max_length=2)]
"""[low, high]."""
_Known = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Value(Form):
    value: NumberOrNull
    low: NumberOrNull
    high: NumberOrNull


class _DimensionForm(Form):
    srcc: _Value
    plcc: _Value
    ccc: _Value
    images: int
    from_anchors: int
    missing: int


class _AffectForm(Form):
    arms: Annotated[dict[str, dict[str, _DimensionForm]], Field(min_length=1)]
    anchors: str | None

    @field_validator("arms")
    @classmethod
    def _same_dimensions(cls, arms: dict[str, dict[str, _DimensionForm]]) -> dict[str, dict[str, _DimensionForm]]:
        if len({frozenset(of) for of in arms.values()}) > 1:
            msg = "the arms have different dimensions; expected the same of each"
            raise ValueError(msg)
        return arms


class _ConfusionForm(Form):
    rows: list[str]
    columns: list[str]
    counts: list[list[int]]

    @model_validator(mode="after")
    def _one_place_each(self) -> _ConfusionForm:
        down, across = len(self.rows), len(self.columns)
        # The last column is no emotion.
        if down < 1 or across != down + 1 or len(self.counts) != down or any(len(row) != across for row in self.counts):
            msg = f"counts of {len(self.counts)} rows for {down} rows and {across} columns; expected one for each, and one column more than rows"
            raise ValueError(msg)
        return self


class _ModesForm(Form):
    paper: dict[str, NumberOrNull]
    strict: dict[str, NumberOrNull]


class _ByEmotionForm(_ModesForm):
    images: int
    precision: NumberOrNull
    recall: NumberOrNull
    f1: NumberOrNull


class _ScoredForm(_ModesForm):
    intervals: dict[str, dict[str, IntervalBounds | None] | None] | None = None


class _ColumnForm(_ScoredForm):
    counts: dict[str, int]
    by_emotion: dict[str, _ByEmotionForm] | None = None
    confusion: _ConfusionForm


class _BaselineForm(_ScoredForm):
    answer: dict[str, object] | None = None


class _DifferenceForm(Form):
    difference: float
    interval: _Known | None


class _PairedDifferenceForm(Form):
    difference: NumberOrNull
    interval: IntervalBounds | None
    p: NumberOrNull


class _PairedModesForm(Form):
    paper: dict[str, _PairedDifferenceForm | None]
    strict: dict[str, _PairedDifferenceForm | None]


class _PairedForm(Form):
    against: str
    arms: dict[str, _PairedModesForm]


class _OverBlindForm(Form):
    strict: dict[str, _DifferenceForm | None] = {}


class _AheadForm(Form):
    strict: dict[str, str | None]


class _SplitForm(Form):
    references: int
    arms: dict[str, _ScoredForm]
    baselines: dict[str, _ScoredForm]


class Table5Form(Form):
    """`table5.json`; `intervals`, `over_blind`, `ahead`, `affect`, `by_split` are younger than the rest."""

    arms: Annotated[dict[str, _ColumnForm], Field(min_length=1)]
    baselines: dict[str, _BaselineForm]
    omitted: dict[str, object] | None = None
    paired: _PairedForm | None = None
    over_blind: dict[str, _OverBlindForm] | None = None
    ahead: _AheadForm | None = None
    affect: _AffectForm | None = None
    by_split: dict[str, _SplitForm] | None = None
    remarks: list[str] = []
    about: dict[str, object] | None = None
    baseline_source: str
    split: str
    references: int
    clip: bool
    clip_truncated: int | None
    definition: str

    @model_validator(mode="after")
    def _all_arms_in_every_split(self) -> Table5Form:
        for split, scores in (self.by_split or {}).items():
            if lost := [arm for arm in self.arms if arm not in scores.arms]:
                msg = f"by_split.{split}.arms has no {', '.join(lost)}; expected all arms"
                raise ValueError(msg)
        return self


class _SummaryForm(Form):
    mean: NumberOrNull
    std: NumberOrNull


class _SetDifferenceForm(Form):
    images: _Known


class _PairForm(Form):
    a: str
    b: str
    accuracy: _SetDifferenceForm


class _PairedSetForm(Form):
    images: int
    pairs: list[_PairForm] = []


class _PairedSetsForm(Form):
    sets: dict[str, _PairedSetForm] | None = None


class Table6Form(Form):
    """`table6.json`."""

    arms: dict[str, dict[str, dict[str, _SummaryForm]]]
    seeds: dict[str, int]
    paired: _PairedSetsForm | None = None
    about: dict[str, object] | None = None

    @model_validator(mode="after")
    def _all_metrics_and_seeds(self) -> Table6Form:
        for arm, sets in self.arms.items():
            if arm not in self.seeds:
                msg = f"'seeds' has no {arm!r}, which is an arm"
                raise ValueError(msg)
            for name, metrics in sets.items():
                if name in TABLE6_SETS and (lost := [key for key in TABLE6_METRICS if key not in metrics]):
                    msg = f"arms.{arm}.{name} has no {', '.join(lost)}; expected {', '.join(TABLE6_METRICS)}"
                    raise ValueError(msg)
        return self


class _MapForm(Form):
    points: int
    available: int
    splits: dict[str, int]
    stress: NumberOrNull
    silhouette_des: NumberOrNull
    silhouette_2d: NumberOrNull
    knn_purity_des: NumberOrNull
    knn_purity_2d: NumberOrNull
    k: int
    without_emotion: int


class MdsForm(Form):
    """`mds.json`; the points are in `mds.npz`."""

    arms: dict[str, _MapForm]


class _PanelItemForm(Form):
    id: str
    image: str
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    split: str | None
    truth: dict[str, object]
    predictions: dict[str, dict[str, object] | None]


class PanelForm(Form):
    """`panel.json`; what the answers hold is checked where it is drawn."""

    arms: list[str]
    seed: int
    of: int
    items: list[_PanelItemForm]

    @model_validator(mode="after")
    def _an_answer_of_every_arm(self) -> PanelForm:
        for n, item in enumerate(self.items):
            if lost := [arm for arm in self.arms if arm not in item.predictions]:
                msg = f"items[{n}].predictions has no {', '.join(lost)}; expected one of every arm, or null"
                raise ValueError(msg)
        return self


class _StepForm(Form):
    ranks: int
    accumulate: int
    rows: int


class _PerfForm(Form):
    tokens_per_s: NumberOrNull = None
    images_per_s: NumberOrNull = None
    mfu: NumberOrNull = None
    fill: NumberOrNull = None
    data_wait: NumberOrNull = None
    memory: NumberOrNull = None


class TrainingForm(Form):
    """`training.json`."""

    seed: int | bool | None
    steps: int
    devices: int
    trained_parameters: int
    images: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    step: _StepForm | None = None
    perf: _PerfForm | None = None
    answered: dict[str, dict[str, NumberOrNull]] = {}
    remarks: list[str] = []
    skipped: dict[str, int] = {}
    unreadable: dict[str, object] | None = None


class _ContentsForm(Form):
    source: dict[str, int] | None = None
    licence: dict[str, int] | None = None


class ManifestForm(Form):
    """What the card of a model says of a data set's `manifest.json`."""

    name: str | None = None
    counts: dict[str, int] | None = None
    contents: _ContentsForm | None = None


class _GainForm(Form):
    difference: NumberOrNull
    interval: IntervalBounds | None


class CrossDatasetForm(Form):
    """What the card of a model says of `cross_dataset.json`."""

    sets: dict[str, object]
    base: str
    in_domain: str
    collapse: dict[str, _GainForm]


def check_form(found: Mapping[str, Any], form: type[Form], path: Path, error: type[UserError] = SchemaError) -> None:
    """Check what a stage wrote.

    Raises:
        UserError: of the type `error`: names the file, the first key that does not fit, what was found and what is allowed.
    """
    if sum(1 for _ in _values(found)) > MAX_PAGE_VALUES:
        msg = f"{path}: more than {MAX_PAGE_VALUES:,} values"
        raise error(msg)
    try:
        form.model_validate(dict(found))
    except ValidationError as failure:
        msg = f"{path}: {problem(failure)}"
        raise error(msg) from None


def _values(found: object) -> Iterator[object]:
    if isinstance(found, Mapping):
        found = list(found.values())
    if not isinstance(found, list):
        yield found
        return
    for inner in found:
        yield from _values(inner)
