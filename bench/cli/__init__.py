"""The command line has one module for each command, and what they share.

Modules that need PyTorch or Transformers import it within functions: the help of every command is
read from these modules, and stays as fast as Python starts.
"""
