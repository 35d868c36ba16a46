"""The devices that models run on, and the one file where anything crosses between them."""
