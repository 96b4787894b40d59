"""Experiments: one module each. `python -m experiments` lists them.

An experiment module holds a docstring card (its first line is the question), a frozen dataclass
`Config` with every default, `SMOKE` (a `Config` that finishes in seconds), `CLAIMS` (a tuple of
`experiments.claims.Claim`), `run(config, run_dir) -> metrics`, where publications have other sizes `PRESETS`
(instances of `Config` by name, for `--preset paper`), and ends with

    if __name__ == "__main__":
        main(Config, run, smoke=SMOKE, claims=CLAIMS)

with `main` from `experiments.cli`. Nobody imports an experiment but the list in
`experiments.catalogue`.
"""
