"""The families of models that can be a backbone, one a file, on families/base.py."""
