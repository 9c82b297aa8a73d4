"""What AWQ is compared with: RTN and GPTQ."""
