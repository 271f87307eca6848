"""home-dist whose other ranks give the first one less time to tell what fails on all of them alike."""

from home_dist import cli

cli._SECONDS_FOR_THE_FIRST_RANK = 3.0

if __name__ == "__main__":
    cli.main()
