"""What `bench_train` measures in processes of their own."""
