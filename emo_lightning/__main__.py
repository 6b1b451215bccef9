"""`python -m emo_lightning` is `emo`; the guard keeps spawned workers from running it again."""

import sys

from emo_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
