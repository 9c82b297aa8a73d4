"""RTN and GPTQ are the methods that AWQ is compared with."""
