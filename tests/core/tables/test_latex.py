from __future__ import annotations

import re

from emo_lightning.core.tables.latex import latex
from tests.core.tables.given import table


def test_latex_is_booktabs_and_holds_no_bare_special_character() -> None:
    text = latex(table(groups=[("", 1), ("demo", 2)]))
    for expected in (
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\cmidrule(lr){2-3}",
        "\\textbf{73.50 $\\pm$ 0.50}",
        "% source: run demo",
        "\\label{tab:t}",
        r"36.60\\ \scriptsize {[}34.00, 39.50{]}\end{tabular}",
        "A \\& B, 50 \\%",
        "IoU $\\uparrow$",
    ):
        assert expected in text, expected
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[&%$#_{}]|\$\\\w+\$|\$-\$", "", body)
    assert not re.search(r"[%$#_~^]", plain)
    assert body.isascii()
    # Every row has as many cells as there are columns, and no line break takes a bracket for its argument.
    rows = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows[1:]} == {2}
    assert not any(row.startswith("[") for row in rows)
    depth = 0
    for character in re.sub(r"\\[{}]", "", body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
