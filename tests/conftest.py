"""What every test runs under: eight CPU devices, strict promotion, a compilation cache, float64 on request."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
import pytest

CACHE = Path(__file__).parents[1] / ".cache" / "jax"

# The environment is for the processes that tests start; jax itself has read it by now.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if jaxlib.__version__.startswith("0.10."):  # a flag that XLA does not know ends the process
    # Tests are small programs, and mostly time to compile: these emitters take a third of it.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_disable_most_optimizations", True)  # small programs: compiling them is what takes the time
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_configure(config: pytest.Config) -> None:
    """Lets workers share the cache: one that reads what another is writing just compiles, and need not fail for it."""
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry:UserWarning")


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go() -> Iterator[None]:
    """Every compiled program is some memory mappings, of which Linux gives a process 65,530: a module keeps its own."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield
