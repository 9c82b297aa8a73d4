"""Small Python functions to complete, run in a sandbox; HumanEval and MBPP through the same one."""
