"""`python -m interlace.jobs VERB`: what a cluster runs from an uploaded working directory."""

from interlace.jobs.cli import main

if __name__ == "__main__":
    main()
