"""The comparisons: soft against hard against none, with the command line that runs and prints them."""
