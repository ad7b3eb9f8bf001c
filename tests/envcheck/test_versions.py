import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envcheck import versions


def test_order():
    rising = ["2.6.0.dev20241112+cu121", "2.6.0rc1", "2.6", "2.6.0.post1", "2.6.1", "2.10.0", "2026.1.4"]
    keys = [versions.parse(text).key for text in rising]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("text", "spec", "fits"),
    [
        ("2.7.1+cu128", ">=2.7,<2.8", True),
        ("2.0", "==2.0.0", True),
        ("4.57.0", "!=4.57.0,<5", False),
        ("3.8.1", "~=3.8.0", True),
        ("3.9.0", "~=3.8.0", False),
        ("0.20.1", "==0.20.*", True),
        ("4.4.3", "!=4.4.*", False),
        ("2.13.0+cpu", "==2.13.0+cpu", True),
        ("2.13.0", "==2.13.0+cpu", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("x", ">=1", None),
        ("1.0", "", True),
    ],
)
def test_matches(text, spec, fits):
    assert versions.matches(text, spec) is fits


@pytest.mark.parametrize(
    ("bounds", "spec", "implied", "excluded"),
    [
        ("<4.42", "<4.50", True, False),
        ("<4.50", "<4.42", False, False),
        (">=5", "<5", False, True),
        (">=0.21", "==0.20.*", False, True),
        (">=0", "<2", False, False),
        ("==1.2", ">=1.0", True, False),
        (">0.0.30", "<=0.0.32", False, False),
    ],
)
def test_ranges(bounds, spec, implied, excluded):
    assert (versions.implies(bounds, spec), versions.excludes(bounds, spec)) == (implied, excluded)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(alphabet="<>=!~,.*0123456789abcx +", max_size=30))
def test_nothing_raises(text, spec):
    versions.matches(text, spec)
    versions.implies(text, spec)
    versions.excludes(spec, text)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_a_version_equals_itself_with_zeros(parts):
    text = ".".join(map(str, parts))
    assert versions.matches(text + ".0", "==" + text) is True
