"""Speed, measured as ratios inside one run; `make bench` writes docs/benchmarks.md. Nothing here is a test."""
