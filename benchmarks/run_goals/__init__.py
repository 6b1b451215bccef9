"""What runs must survive: ten goals, each a module here with a function `measure`. `benchmarks/runs.py` prints them."""
