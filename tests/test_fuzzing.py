import pytest

from fuzzing import TARGETS, failures


@pytest.mark.parametrize("name", TARGETS)
def test_altered_files_are_read_or_refused_by_an_error_that_names_them(name):
    assert failures(name, range(30 if name in ("images", "run", "run on a table") else 150)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_so_are_many_more(name):
    assert failures(name, range(1000, 3000)) == []
