"""Results of benchmarks that other tools measured, read from the files that those tools write."""
