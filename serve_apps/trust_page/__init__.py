"""The public page ``/verify/{id}``; its verifier in JavaScript runs in the reader's browser.

Files are served as they are: no build step, no dependency. ``package.json`` is there for node
alone, which runs the modules in tests. docs/spec/certificate-v1.md is what they are written from.
"""
