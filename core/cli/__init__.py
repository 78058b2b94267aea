"""The command line: ``python -m core VERB`` does everything the page does, through the same functions."""
