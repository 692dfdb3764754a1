"""What tests, demonstrations and benchmarks of trust share: papers, mutants, vectors, rewriters."""
