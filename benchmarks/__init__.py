"""What taskmon costs, measured: `python -m benchmarks` runs everything, `python -m benchmarks.state` one benchmark.

They print tables and never fail for a figure. Every contender runs in a process of its own.
"""
