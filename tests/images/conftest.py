import pytest


@pytest.fixture(autouse=True)
def own_cache_home(tmp_path_factory, monkeypatch):
    """Remembered file hashes go to a folder of the test's own."""
    home = tmp_path_factory.mktemp("cache-home")
    monkeypatch.setenv("FDR_CACHE", str(home))
    return home
