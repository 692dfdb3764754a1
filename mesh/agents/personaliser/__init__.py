"""Makes an email one person's: by what the memory knows of them, and of nobody else."""
