"""What goes into the wheel; everything else about the package stands in pyproject.toml.

`configs/` and `experiments/` are no packages, and lie in the wheel below `emo_lightning/shipped/`: `lightning run
experiments/table6.yaml` finds them from any directory. setuptools' declarative form cannot add to the packages that it finds.
"""

from setuptools import find_namespace_packages, setup

DATA = {"configs": "emo_lightning.shipped.configs", "experiments": "emo_lightning.shipped.experiments"}

setup(
    packages=[*find_namespace_packages(include=["emo_lightning*", "data_prep*"]), *DATA.values()],
    package_dir={package: folder for folder, package in DATA.items()},
    package_data={
        "emo_lightning": [
            "py.typed",
            "**/*.yaml",
            "**/*.html",
            "**/*.j2",
            "**/*.js",
            "**/*.css",
            "stages/*.md",
            "models/tiny_base/*",
        ],
        "data_prep": ["py.typed", "**/*.txt", "**/*.html", "**/*.js", "**/*.css"],
        **{package: ["**/*.yaml"] for package in DATA.values()},
    },
)
