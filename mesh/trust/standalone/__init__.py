"""The stand-alone verifier: one file to be copied anywhere; it imports nothing of ours."""
