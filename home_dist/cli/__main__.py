"""`python -m home_dist.cli`, which torchrun starts on every rank."""

from home_dist.cli.app import main

if __name__ == "__main__":
    main()
