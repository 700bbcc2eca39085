"""A trained net as a file that programs without this one can use."""
