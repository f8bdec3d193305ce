"""The comparisons: soft against hard against none, with the command line that runs and prints them."""

if __name__ == "experiments":  # imported by its folder's name, from a checkout
    from softeq._names import same_modules

    same_modules(__name__)
