"""The part of the judge that runs inside the sandbox: standard library only, nothing else of the repository."""
