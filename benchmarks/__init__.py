"""How fast is rnn_jax beside other ways to do the same work? One command, `python -m benchmarks`; see `__main__`.

    cases      what is measured: sizes, and the work that it cannot go below
    problems   seeded weights and inputs of a case, in NumPy
    peers/     the same network in every library that is there, and the maps between layouts of weights
    programs   from a network in JAX to a compiled training step, on one device or with its batch over several
    worker     one process with one peer: builds, gives its results, times; `processes` starts and asks them
    conductor  has workers build, checks that results are equal, lets them take turns
    ratios     the arithmetic of ratios; `summary` boils a run down, `table` and `plot` show it

The other files (`fit_cost`, `forced_path`, `many_seeds`, ...) are scripts of their own, about the library alone.
"""
