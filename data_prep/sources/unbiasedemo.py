"""UnbiasedEmo: `<emotion>/<folder>/*.jpg` as its authors publish it, or what VECBench tests of it."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place
from data_prep.sources.indexed import Entry
from data_prep.sources.labels import UNBIASED, SourceLabels, translate
from data_prep.sources.tree import Tree, key_of, refused_folder
from data_prep.sources.vecbench import VECBenchSource

_FOLDERS = ("UnbiasedEmo", "images", ".")


class UnbiasedEmoSource(VECBenchSource):
    """Six emotions: anger, fear and sadness are labels of the same name; joy, love and surprise have no equal among the eight."""

    name = "unbiasedemo"
    sets = ("UnbiasedEmo",)

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """VECBench's rows where its file is there, else the folders of emotions."""
        if self.index_files(tree):
            yield from super().entries(tree)
            return
        folder = tree.folder(*_FOLDERS)
        names = tree.subfolders(folder)
        if not any(name.lower() in UNBIASED for name in names):
            msg = "UnbiasedEmo"
            raise tree.missing(msg, *(f"{word}/<folder>/" for word in UNBIASED), *self.files)
        for name in names:
            try:
                emotion = translate(name, UNBIASED)
            except RefusedError as error:
                yield refused_folder(tree, folder + name, error)
                continue
            labels: SourceLabels = {"emotion_raw": name.lower(), **({"emotion": emotion} if emotion else {})}
            for image in tree.images_in(folder + name):
                if isinstance(image, SourceRefusal):
                    yield image
                    continue
                below = image.removeprefix(f"{folder}{name}/").rpartition("/")[0]
                said: SourceLabels = {**labels, **({"attributes": {"keyword": below}} if below else {})}
                yield Entry(Place(str(tree.root / image), None), key_of(image), image, said, "test")
