"""`python -m fdr` is `fdr`; so `torchrun -m fdr` works as well."""

from fdr.cli import main

if __name__ == "__main__":
    main()
