import pytest


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file
