"""What `bench_dataset.py` measures with and against."""
