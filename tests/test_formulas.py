"""Formulas of the documentation become MathML when the site is built, and need nothing from a network."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
assert SPEC is not None
assert SPEC.loader is not None
HOOKS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(HOOKS)


def test_formulas_in_the_line_and_on_their_own_become_mathml() -> None:
    page = r'<p>If <span class="arithmatex">\(x_t &lt; 1\)</span>:</p><div class="arithmatex">\[\sum_t x_t\]</div>'
    made = HOOKS.on_page_content(page)
    assert "arithmatex" not in made
    assert made.startswith('<p>If <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"')
    assert made.count('display="block"') == 1
    assert "<msub><mi>x</mi><mi>t</mi></msub><mo>&lt;</mo><mn>1</mn>" in made.replace("&#x0003C;", "&lt;")
    assert "script" not in made


def test_a_page_without_formulas_stays_as_it_is() -> None:
    page = "<p>It costs $5, or $6.</p>"
    assert HOOKS.on_page_content(page) == page
