"""The suite asks for small Python functions and runs them, HumanEval and MBPP in one sandbox."""
